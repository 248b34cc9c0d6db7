from dataclasses import replace
from functools import cache
from importlib import import_module
from inspect import unwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import LAYOUTS, laid_out, small

import mi_core as mi
from mi_analyses import DirectLogitAttribution, direct_logit_attribution
from mi_core.building import initialise_randomly
from mi_core.cli.main import main
from mi_core.errors import SelectorError, TokenOutOfRange, UnsupportedAnalysis
from mi_core.protocols import Residual

MODEL = small()
FAMILIES = ("llama", "hooked_transformer", "gpt2", "gpt_neox", "gemma2", "rwkv7")
IDS = st.integers(0, 29)
ROWS = st.lists(st.lists(IDS, min_size=1, max_size=4), min_size=1, max_size=2)


@cache
def example(family):
    """A family's first tiny model, no weight of it zero or one."""
    config = import_module(f"mi_families.{family}").mi_family_examples()[0]
    model = mi.build(config, trainable=False, device="cpu")
    initialise_randomly(model, 1)
    return model


def missing(model, row, part, answer):
    """What the answer's logit loses if ``part`` is taken from the last stream, at the final norm's old scale."""
    last = f"blocks.{model.shape.n_layers - 1}.hook_resid_post"
    run = model.run(row, mi.capture(["ln_final.hook_scale", "unembed.hook_out"]))
    away = mi.intervene(last, mi.Add(-part)) + mi.intervene("ln_final.hook_scale", mi.Replace(run))
    edited = model.run(row, away + mi.capture("unembed.hook_out"))
    return (run.at("unembed.hook_out", pos=-1) - edited.at("unembed.hook_out", pos=-1))[0, answer]


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=5)
@given(row=st.lists(IDS, min_size=1, max_size=4), answer=IDS)
def test_a_component_is_what_the_logit_loses_without_it(family, row, answer):
    model = example(family)
    result = direct_logit_attribution(model, row, answer)
    run = model.run(row, mi.capture("*"))
    for name, point in (
        ("embed", "hook_embed"),
        ("0.attn", "blocks.0.hook_attn_out"),
        ("1.mlp", "blocks.1.hook_mlp_out"),
    ):
        if point not in run:
            assert family == "hooked_transformer"  # attention alone
            continue
        expected = missing(model, row, run.at(point, pos=slice(None)), answer)
        seen = result.component.sel(component=name).values[0]
        torch.testing.assert_close(seen, expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2", "hooked_transformer"])
@settings(max_examples=5)
@given(row=st.lists(IDS, min_size=1, max_size=4), answer=IDS, layer=st.integers(0, 1), head=st.integers(0, 1))
def test_a_head_is_what_the_logit_loses_without_its_write(family, row, answer, layer, head):
    model = example(family)
    result = direct_logit_attribution(model, row, answer)
    names = [f"blocks.{layer}.{site}" for site in ("hook_attn_out", "ln1_post.hook_scale")]
    held = [point.name for point in model.hook_points() if point.name in names]
    run = model.run(row, mi.capture(held))
    spec = mi.intervene(f"blocks.{layer}.attn.hook_z", mi.Zero().at(head=head))
    for name in held[:-1] if held[-1] == names[0] else held[1:]:
        spec = spec + mi.intervene(name, mi.Replace(run))  # a post-norm at its old scale
    written = run[names[0]] - model.run(row, spec + mi.capture(names[0]))[names[0]]
    expected = missing(model, row, written, answer)
    torch.testing.assert_close(result.head.values[layer, head, 0], expected, atol=2e-4, rtol=1e-3)


@given(ROWS, st.one_of(st.none(), IDS), st.one_of(st.none(), IDS), LAYOUTS, st.integers(0, 99))
def test_components_and_weights_sum_to_the_logit_in_every_layout(rows, answer, wrong, layout, seed):
    ids, mask = laid_out(rows, layout, seed)
    result = direct_logit_attribution(MODEL, ids, answer, wrong, attention_mask=mask)
    for number, row in enumerate(rows):
        logits = MODEL.run(row).last_logits[0]
        right = int(logits.argmax()) if answer is None else answer
        expected = logits[right] - (0 if wrong is None else logits[wrong])
        own = result.component.values[:, number]
        scale = float(own.abs().max())
        assert float(result.logit.values[number]) == pytest.approx(float(expected), abs=1e-4 * scale)
        # RMSNorm has no bias, nor has the unembedding: the parts alone make the logit
        assert float(own[:-1].sum()) == pytest.approx(float(expected), abs=1e-4 * scale)
        assert abs(float(own[-1])) <= 1e-4 * scale
        alone = direct_logit_attribution(MODEL, row, right, wrong)
        torch.testing.assert_close(own, alone.component.values[:, 0], atol=1e-4 * scale, rtol=0)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@settings(max_examples=5)
@given(row=st.lists(IDS, min_size=1, max_size=4), answer=IDS)
def test_the_neurons_of_a_layer_sum_to_its_mlp(family, row, answer):
    result = direct_logit_attribution(example(family), row, answer)
    for layer in result.neuron.coords["layer"]:
        neurons = result.neuron.sel(layer=layer).values.sum(0)
        torch.testing.assert_close(neurons, result.component.sel(component=f"{layer}.mlp").values, atol=2e-4, rtol=1e-3)


def test_a_neuron_is_what_the_logit_loses_without_its_write():
    model, row, answer = example("gpt2"), [3, 1, 4], 5
    result = direct_logit_attribution(model, row, answer)
    run = model.run(row, mi.capture("blocks.1.hook_mlp_out"))
    without = model.run(row, mi.intervene("blocks.1.mlp.hook_post", mi.Zero().at(d_mlp=7)) + mi.capture("blocks.1.*"))
    part = run["blocks.1.hook_mlp_out"] - without["blocks.1.hook_mlp_out"]
    torch.testing.assert_close(
        result.neuron.sel(layer=1, neuron=7).values[0], missing(model, row, part, answer), atol=2e-4, rtol=1e-3
    )


def test_the_remainder_is_the_biases():
    model = example("gpt2")
    result = direct_logit_attribution(model, [1, 2, 3], 5)
    weights = model.weights
    expected = weights["ln_final.b"] @ weights["unembed.W_U"][:, 5]
    assert abs(float(expected)) > 1e-3
    assert result.component.sel(component="remainder").values[0] == pytest.approx(float(expected), abs=1e-4)


def test_positions_are_counted_on_real_tokens():
    early = direct_logit_attribution(MODEL, [[1, 2, 3], [4, 5]], 7, pos=1)
    torch.testing.assert_close(
        early.logit.values, torch.stack([MODEL.run(row).last_logits[0, 7] for row in ([1, 2], [4, 5])])
    )
    assert early.component.coords["component"][:3] == ("embed", "0.attn", "0.mlp")


def test_what_cannot_be_taken_apart_is_refused(monkeypatch):
    with pytest.raises(SelectorError, match="3 answers for 1 rows"):
        direct_logit_attribution(MODEL, [1, 2], [1, 2, 3])
    with pytest.raises(TokenOutOfRange, match="61"):
        direct_logit_attribution(MODEL, [1, 2], 61)
    with pytest.raises(SelectorError):
        direct_logit_attribution(MODEL, [1, 2], pos=5)
    with pytest.raises(SelectorError, match="one position"):
        unwrap(direct_logit_attribution)(MODEL, [1, 2], pos=slice(0, 1))
    rules = (Residual(), Residual("own", "the layer is scaled"), Residual())
    monkeypatch.setattr(MODEL.backend, "shape", replace(MODEL.shape, residual=rules), raising=False)
    with pytest.raises(UnsupportedAnalysis, match=r"layer 1 .*'own': the layer is scaled"):
        direct_logit_attribution(MODEL, [1, 2])


def test_json_gives_back_an_equal_result_and_the_page_shows_it(tmp_path):
    result = direct_logit_attribution(MODEL, [[1, 2], [3, 4]], wrong=3)
    assert DirectLogitAttribution.from_json(result.to_json()) == result
    page = result.to_html(tmp_path / "parts.html")
    assert "components, mean over prompts" in page
    assert "remainder" in page


def test_the_command_finds_the_heads_that_write_the_capital(capsys, tmp_path):
    data = tmp_path / "parts.json"
    arguments = ["attribute", "tiny-world", "The capital of France is", "--wrong", " Rome", "--json", str(data)]
    assert main(arguments) == 0
    assert "Largest: 1.attn" in capsys.readouterr().out
    result = DirectLogitAttribution.from_json(data)
    assert (result.answer, result.wrong) == ((" Paris",), (" Rome",))
    assert result.component.sel(component="1.attn").item() > 0.5 * result.logit.item()
    assert main([*arguments, "--answer", "several tokens here"]) == 2
    assert "NotSingleToken" in capsys.readouterr().err
