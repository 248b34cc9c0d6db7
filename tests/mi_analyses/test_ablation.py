import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import small

import mi_core as mi
from mi_analyses import Ablation, ablation
from mi_core.cli.main import main
from mi_core.errors import SelectorError, UnsupportedAnalysis

MODEL = small()
PROMPTS = [[1, 2, 3, 4], [5, 6, 7, 8], [9, 8, 7, 6]]


@settings(max_examples=10)
@given(
    st.sampled_from(["zero", "mean", "resample"]),
    st.sampled_from([("attn.hook_z", "head"), ("mlp.hook_post", "d_mlp"), ("hook_mlp_out", None)]),
    st.data(),
)
def test_each_effect_is_that_of_its_own_run(how, place, data):
    site, dim = place
    result = ablation(MODEL, PROMPTS, mi.logit(3), site=site, how=how, each=("layer", *([dim] if dim else [])), seed=5)
    layer = data.draw(st.integers(0, MODEL.shape.n_layers - 1))
    cell = {"layer": layer} | ({dim: data.draw(st.integers(0, result.effect.shape[1] - 1))} if dim else {})
    given = MODEL.run(PROMPTS, mi.capture(f"blocks.*.{site}"))
    write = {"zero": mi.Zero(), "mean": mi.Mean(given), "resample": mi.Resample(given, seed=5)}[how]
    edit = mi.intervene(f"blocks.{layer}.{site}", write.at(**({dim: cell[dim]} if dim else {})))
    change = MODEL.run(PROMPTS, edit).last_logits[:, 3] - MODEL.run(PROMPTS).last_logits[:, 3]
    torch.testing.assert_close(result.effects.sel(**cell).values, change, rtol=0, atol=1e-4)
    assert result.effect.sel(**cell).item() == pytest.approx(change.mean().item(), abs=1e-4)


def test_heads_are_the_cells_where_there_are_heads_and_layers_where_not():
    assert ablation(MODEL, [1, 2, 3], mi.logit(3)).effect.dims == ("layer", "head")
    assert ablation(MODEL, [1, 2, 3], mi.logit(3), site="hook_mlp_out").effect.dims == ("layer",)


REFUSED = [
    ({"how": "noise"}, SelectorError, "zero, mean, resample"),
    ({"how": "mean"}, SelectorError, "at least two; got 1"),
    ({"how": "zero", "reference": PROMPTS}, SelectorError, "no reference"),
    ({"level": 1.0}, SelectorError, "between 0 and 1"),
    ({"site": "mlp.hook_nothing"}, UnsupportedAnalysis, "hook_nothing"),
    ({"site": "hook_mlp_out", "each": ("head",)}, SelectorError, "'head'"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), REFUSED)
def test_what_cannot_be_ablated_is_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        ablation(MODEL, [1, 2, 3], mi.logit(3), **wrong)


def test_the_command_prints_and_writes(capsys, tmp_path):
    html, data = tmp_path / "page.html", tmp_path / "numbers.json"
    prompt = ["ablate", "tiny-world", "The capital of France is", "--answer", " Paris"]
    assert main([*prompt, "--html", str(html), "--json", str(data)]) == 0
    assert "layer 0, head 3" in capsys.readouterr().out.replace("\n", " ")
    result = Ablation.from_json(data)
    assert Ablation.from_json(result.to_json()) == result
    assert "zero ablation" in html.read_text(encoding="utf-8")
    others = ["--how", "mean", "--reference", "The capital of Japan is", "--reference", "The capital of Egypt is"]
    assert main([*prompt, *others, "--each", "layer"]) == 0
    assert main([*prompt, "--how", "mean"]) == 2
