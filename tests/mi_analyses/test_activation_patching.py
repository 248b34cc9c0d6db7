import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import LAYOUTS, laid_out, small, talking

import mi_core as mi
from mi_analyses import ActivationPatching, activation_patching
from mi_analyses.intervals import mean_interval
from mi_core.cli.main import main
from mi_core.errors import SelectorError, UnsupportedAnalysis, ValueMismatch

MODEL = small()
METRIC = mi.logit_diff(3, 5)
IDS = st.integers(0, 60)
PAIRS = st.lists(st.lists(st.tuples(IDS, IDS), min_size=2, max_size=3), min_size=1, max_size=2)


def split(pairs):
    """Clean and corrupt rows that differ at their last token."""
    clean = [[a for a, _ in row] for row in pairs]
    corrupt = [[*(b for _, b in row[:-1]), (row[-1][0] + 1) % 61] for row in pairs]
    return clean, corrupt


def measured(model, rows, spec):
    """The metric of each row, run alone."""
    runs = [model.run(row, spec(number)).last_logits[0] for number, row in enumerate(rows)]
    return torch.stack([logits[3] - logits[5] for logits in runs])


@settings(max_examples=10)
@given(PAIRS, st.sampled_from(["hook_resid_pre", "attn.hook_z", "hook_mlp_out"]), st.booleans(), st.integers(0, 2))
def test_every_cell_is_the_full_run_with_that_patch(pairs, site, noising, layer):
    clean, corrupt = split(pairs)
    result = activation_patching(MODEL, clean, corrupt, METRIC, site=site, each=("layer", "pos"), noising=noising)
    base, source = (clean, corrupt) if noising else (corrupt, clean)
    for pos in range(min(map(len, clean))):

        def patch(row, pos=pos):
            name = f"blocks.{layer}.{site}"
            return mi.intervene(name, mi.Replace(MODEL.run(source[row], mi.capture(name))).at(pos=pos))

        expected = measured(MODEL, base, patch)
        torch.testing.assert_close(result.metric.values[layer, pos], expected, atol=1e-4, rtol=1e-4)
    for name, rows in (("clean", clean), ("corrupt", corrupt)):
        torch.testing.assert_close(
            getattr(result, name).values, measured(MODEL, rows, lambda _: None), atol=1e-4, rtol=1e-4
        )
    low, high = (result.clean, result.corrupt) if noising else (result.corrupt, result.clean)
    effect = (result.metric.values - low.values) / (high.values - low.values)
    assert torch.equal(result.effects.values, effect)
    assert torch.equal(result.effect.values, effect.mean(-1))


@given(PAIRS, st.booleans())
def test_patching_every_layer_from_the_first_is_the_other_prompt(pairs, noising):
    clean, corrupt = split(pairs)
    rows = slice(0, 1)
    result = activation_patching(
        MODEL, clean[rows], corrupt[rows], METRIC, each={"layer": [0], "pos": {"all": slice(None)}}, noising=noising
    )
    torch.testing.assert_close(result.effect.values, torch.ones(1, 1), atol=1e-3, rtol=0)


@settings(max_examples=10)
@given(PAIRS, LAYOUTS, st.integers(0, 99))
def test_padding_changes_nothing(pairs, layout, seed):
    clean, corrupt = split(pairs)
    ids, mask = laid_out(clean, layout, seed)
    others, other_mask = laid_out(corrupt, layout, seed)
    if not torch.equal(mask, other_mask):
        return
    padded = activation_patching(MODEL, ids, others, METRIC, each={"layer": None, "pos": [0, -1]}, attention_mask=mask)
    alone = activation_patching(MODEL, clean, corrupt, METRIC, each={"layer": None, "pos": [0, -1]})
    torch.testing.assert_close(padded.metric.values, alone.metric.values, atol=1e-4, rtol=1e-4)


def test_heads_are_the_default_axis_where_a_site_has_them():
    clean, corrupt = [1, 2, 3], [1, 2, 4]
    assert activation_patching(MODEL, clean, corrupt, METRIC).effect.dims == ("layer", "pos")
    assert activation_patching(MODEL, clean, corrupt, METRIC, site="attn.hook_z").effect.dims == ("layer", "head")
    assert activation_patching(MODEL, clean, corrupt, METRIC, site="attn.hook_v").effect.dims == ("layer", "kv_head")


def test_a_window_patches_so_many_layers_from_its_first_on():
    result = activation_patching(MODEL, [1, 2, 3], [1, 2, 4], METRIC, site="hook_attn_out", each=("layer",), window=2)
    source = MODEL.run([1, 2, 3], mi.capture("blocks.*.hook_attn_out"))
    spec = mi.intervene("blocks.*.hook_attn_out", mi.Replace(source).at(layer=[1, 2]))
    torch.testing.assert_close(
        result.metric.sel(layer=1).values, measured(MODEL, [[1, 2, 4]], lambda _: spec), atol=1e-4, rtol=1e-4
    )
    assert result.window == 2


def test_noise_is_a_corruption_and_the_first_stream_undoes_it():
    noise = mi.intervene("hook_embed", mi.Noise(3.0, seed=1).at(pos=1))
    result = activation_patching(MODEL, [1, 2, 3], noise, METRIC)
    edited = MODEL.run([1, 2, 3], noise).last_logits[0]
    torch.testing.assert_close(result.corrupt.values[0], edited[3] - edited[5], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(result.effect.values[0], torch.tensor([0.0, 1.0, 0.0]), atol=1e-4, rtol=0)
    back = activation_patching(MODEL, [1, 2, 3], noise, METRIC, noising=True)
    torch.testing.assert_close(back.effect.values[0], torch.tensor([0.0, 1.0, 0.0]), atol=1e-4, rtol=0)


def test_spans_join_prompts_of_different_lengths_and_all_else_is_refused_side_by_side():
    model = talking()
    clean, corrupt = "The capital of France is", "It is said that the capital of France is"
    places = {"layer": None, "pos": {"country": mi.Span("France"), "end": -1}}
    result = activation_patching(model, clean, corrupt, mi.logit(7), each=places)
    assert result.effect.coords["pos"] == ("country", "end")
    assert len(result.clean_tokens[0]) < len(result.corrupt_tokens[0])
    for each in (None, ("layer", "pos"), ("layer",), {"layer": [0]}):
        with pytest.raises(SelectorError) as refused:
            activation_patching(model, clean, corrupt, mi.logit(7), each=each)
        lines = str(refused.value).splitlines()
        assert lines[1].startswith("clean    <s>")
        assert lines[2].startswith("corrupt  <s>")
        assert set(lines[3].strip()) <= {"^", " "}
    with pytest.raises(SelectorError, match="2 clean prompts and 1 corrupt"):
        activation_patching(model, [clean, clean], [clean], mi.logit(7))


def test_what_cannot_be_patched_is_refused():
    with pytest.raises(ValueMismatch, match="pair 1: clean and corrupt have the same logit difference"):
        activation_patching(MODEL, [[1, 2], [3, 4]], [[1, 3], [3, 4]], METRIC)
    with pytest.raises(UnsupportedAnalysis, match="hook_resid_pree"):
        activation_patching(MODEL, [1], [2], METRIC, site="hook_resid_pree")
    with pytest.raises(SelectorError, match="level=2"):
        activation_patching(MODEL, [1], [2], METRIC, level=2)
    with pytest.raises(SelectorError, match="window=0"):
        activation_patching(MODEL, [1], [2], METRIC, window=0)


@given(st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=12), st.integers(0, 9))
def test_the_interval_holds_the_mean_and_stays_inside_the_values(values, seed):
    given_ = torch.tensor(values)
    low, high = mean_interval(given_, seed=seed)
    assert given_.min() - 1e-4 <= low <= given_.mean() + 1e-4
    assert given_.mean() - 1e-4 <= high <= given_.max() + 1e-4
    every = mean_interval(given_.expand(3, -1), seed=seed)
    torch.testing.assert_close(every[:, 1], torch.stack([low, high]), atol=1e-4, rtol=0)


def test_the_interval_covers_the_true_mean_as_often_as_it_says():
    draws = torch.randn(300, 40, generator=torch.Generator().manual_seed(0))
    low, high = mean_interval(draws)
    assert 0.88 <= float(((low <= 0) & (high >= 0)).float().mean()) <= 0.98
    assert mean_interval(draws[:, :1]).isnan().all()


def test_json_gives_back_an_equal_result_and_the_page_shows_it(tmp_path):
    result = activation_patching(MODEL, [[1, 2], [3, 4]], [[1, 3], [3, 5]], METRIC)
    assert ActivationPatching.from_json(result.to_json()) == result
    page = result.to_html(tmp_path / "patch.html")
    assert (tmp_path / "patch.html").read_text(encoding="utf-8") == page
    assert "effect of each pair" in page
    assert "http" not in page.lower().replace("http-equiv", "")


def test_the_command_finds_where_tiny_world_keeps_the_country(capsys, tmp_path):
    data = tmp_path / "patch.json"
    prompts = ["The capital of France is", "The capital of Italy is"]
    arguments = ["patch", "tiny-world", *prompts, "--answer", " Paris", "--wrong", " Rome", "--json", str(data)]
    assert main(arguments) == 0
    assert "clean into corrupt (denoising)" in capsys.readouterr().out
    effect = ActivationPatching.from_json(data).effect
    assert effect.sel(layer=0, pos=" Italy").item() == pytest.approx(1, abs=1e-3)
    assert effect.sel(layer=3, pos=" is").item() > 0.9
    assert effect.sel(layer=3, pos=" Italy").item() < 0.1
    assert main([*arguments, "--noising", "--each", "layer", "--site", "hook_mlp_out", "--window", "2"]) == 0
    assert "corrupt into clean (noising), 2 layers at a time" in capsys.readouterr().out.replace("\n", " ")
    assert main(["patch", "tiny-world", "The capital of", "Of", "--answer", " Paris"]) == 2
    assert "corrupt  <bos>" in capsys.readouterr().err
