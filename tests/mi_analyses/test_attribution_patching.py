from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import LAYOUTS, laid_out, small, talking

import mi_core as mi
from mi_analyses import AttributionPatching, activation_patching, attribution_patching
from mi_analyses.screening import rank_correlation
from mi_core.cli.main import main
from mi_core.errors import SelectorError, UnsupportedAnalysis, ValueMismatch
from mi_core.testing import subjects

MODEL = small()
METRIC = mi.logit_diff(3, 5)
SITES = {
    "hook_resid_pre": ("layer", "pos"),
    "attn.hook_z": ("pos", "head", "layer"),
    "attn.hook_v": ("layer", "kv_head"),
    "hook_mlp_out": ("pos", "layer"),
    "mlp.hook_post": ("layer", "pos", "d_mlp"),
    "attn.hook_pattern": ("layer", "head", "query_pos", "key_pos"),
}
IDS = st.integers(0, 30)
PAIRS = st.lists(st.lists(st.tuples(IDS, IDS), min_size=2, max_size=4), min_size=1, max_size=2)


@cache
def example(family):
    """A random model of a family."""
    return subjects(family)[0].model


def split(pairs):
    """Clean and corrupt rows that differ at their last token."""
    clean = [[a for a, _ in row] for row in pairs]
    corrupt = [[*(b for _, b in row[:-1]), (row[-1][0] + 1) % 31] for row in pairs]
    return clean, corrupt


def gap_of(result):
    """What effects are parts of."""
    base, source = (result.clean, result.corrupt) if result.noising else (result.corrupt, result.clean)
    return source.values - base.values


@settings(max_examples=6)
@given(PAIRS, st.sampled_from(sorted(SITES)), st.booleans(), LAYOUTS, st.integers(0, 99), st.integers(0, 2))
def test_an_estimate_is_the_slope_of_the_metric_towards_the_patch(pairs, site, noising, layout, seed, layer):
    clean, corrupt = split(pairs)
    ids, mask = laid_out(clean, layout, seed)
    others = ids.clone()
    others[mask] = torch.tensor([token for row in corrupt for token in row])
    axes = SITES[site]
    result = attribution_patching(
        MODEL, ids, others, METRIC, site=site, each=axes, noising=noising, attention_mask=mask
    )
    name = f"blocks.{layer}.{site}"
    given_ = MODEL.run(others if noising else ids, mi.capture(name), attention_mask=mask)
    cells = [
        dict(zip(result.effect.dims, map(int, place), strict=True))
        for place in result.effect.values.isfinite().nonzero()
    ]
    cells = [cell for cell in cells if cell.pop("layer") == layer]
    cells = [cells[place] for place in torch.randperm(len(cells), generator=torch.Generator().manual_seed(seed))[:3]]

    def moved(weight, cell):
        return mi.intervene(name, mi.Interpolate(given_, weight).at(**cells[cell]))

    steps = mi.grid(moved, weight=(1e-2, -1e-2), cell=range(len(cells)))
    ends = MODEL.sweep(ids if noising else others, steps, METRIC, attention_mask=mask, progress=False).values
    slopes = (ends[0] - ends[1]) / 2e-2
    seen = torch.stack([result.effects.sel(layer=layer, **cell).values for cell in cells]) * gap_of(result)
    torch.testing.assert_close(seen, slopes, atol=5e-3, rtol=5e-3)


def test_what_is_not_an_axis_is_patched_as_one():
    clean, corrupt = split([[(1, 2), (3, 4), (5, 6)]])
    whole = attribution_patching(MODEL, clean, corrupt, METRIC, site="attn.hook_z", each=("layer", "pos", "head"))
    heads = attribution_patching(MODEL, clean, corrupt, METRIC, site="attn.hook_z")
    assert heads.effect.dims == ("layer", "head")
    torch.testing.assert_close(heads.effect.values, whole.effect.values.sum(1), atol=1e-5, rtol=1e-4)
    assert attribution_patching(MODEL, clean, corrupt, METRIC).effect.dims == ("layer", "pos")


@pytest.mark.parametrize("noising", [False, True])
def test_gradients_on_the_way_add_up_to_the_whole_difference(noising):
    clean, corrupt = split([[(1, 2), (3, 4), (5, 6)], [(9, 10), (11, 12)]])
    result = attribution_patching(MODEL, clean, corrupt, METRIC, noising=noising, steps=16, each=("layer",))
    assert result.steps == 16
    torch.testing.assert_close(result.effects.sel(layer=0).values, torch.ones(2), atol=2e-2, rtol=0)


@pytest.mark.parametrize("site", ["attn.hook_q", "attn.hook_k", "attn.hook_k_per_head"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_the_qk_fix_follows_the_patterns_that_each_query_or_key_makes(site, family):
    # grouped keys; capped scores; sinks
    model = MODEL if family == "llama" else example(family)
    clean, corrupt = split([[(1, 2), (3, 4), (5, 6), (7, 8)], [(9, 10), (11, 12)]])
    heads = "kv_head" if site == "attn.hook_k" else "head"
    result = attribution_patching(model, clean, corrupt, METRIC, site=site, each=("layer", heads, "pos"), qk_fix=True)
    pattern, point = "blocks.1.attn.hook_pattern", f"blocks.1.{site}"
    given_ = model.run(clean, mi.capture(point))
    under = model.run(corrupt, mi.capture(pattern), grad=True)
    gradient = under.grad(METRIC.bound(model, 2), pattern)[pattern]
    for head in range(given_[point].shape[2]):
        for pos in range(2):
            patch = mi.intervene(point, mi.Replace(given_).at(**{heads: head, "pos": pos}))
            made = model.run(corrupt, patch + mi.capture(pattern), logits=None)[pattern]
            expected = ((made - under[pattern].detach()) * gradient).sum((1, 2, 3)) / gap_of(result)
            seen = result.effects.sel(layer=1, pos=pos, **{heads: head}).values
            torch.testing.assert_close(seen, expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("family", ["llama", "gptj"])
@pytest.mark.parametrize("site", ["attn.hook_z", "hook_mlp_out"])
def test_layers_left_out_are_those_whose_writes_are_detached(family, site):
    model = MODEL if family == "llama" else example(family)
    clean, corrupt = split([[(1, 2), (3, 4), (5, 6)], [(9, 10), (11, 12)]])
    result = attribution_patching(model, clean, corrupt, METRIC, site=site, each=("layer", "pos"), grad_drop=True)
    points = f"blocks.*.{site}"
    given_ = model.run(clean, mi.capture(points))
    total = torch.zeros(3, 2, 2)
    for layer in range(3):
        writes = [f"blocks.{layer}.hook_attn_out", f"blocks.{layer}.hook_mlp_out"]
        run = model.run(corrupt, mi.capture(points) + mi.intervene(writes, mi.Detach()), grad=True)
        gradients = run.grad(METRIC.bound(model, 2), points)
        for own in range(3):
            name = f"blocks.{own}.{site}"
            if site != "hook_mlp_out" or own != layer:
                product = (given_[name] - run[name].detach()) * gradients[name]
                total[own] += product.flatten(2).sum(-1).T[:2].abs()
    torch.testing.assert_close(result.effects.values, total / 2 / gap_of(result).abs(), atol=1e-5, rtol=1e-3)


@settings(max_examples=6)
@given(
    PAIRS,
    st.sampled_from(["gpt2", "gemma2", "gptj", "rwkv"]),
    st.booleans(),
    st.integers(1, 5),
    st.integers(0, 4),
    st.integers(0, 9),
)
def test_cells_that_were_run_are_those_of_activation_patching(pairs, family, noising, screen, sample, seed):
    model = example(family)
    clean, corrupt = split(pairs)
    options = {"site": "hook_mlp_out", "each": ("layer", "pos"), "noising": noising}
    result = attribution_patching(model, clean, corrupt, METRIC, screen=screen, sample=sample, seed=seed, **options)
    truth = activation_patching(model, clean, corrupt, METRIC, **options)
    ran = result.chosen.values > 0
    torch.testing.assert_close(result.exacts.values[ran], truth.effects.values[ran], atol=1e-3, rtol=1e-3)
    assert result.exacts.values[~ran].isnan().all()
    assert result.exact == result.exacts.mean("batch")
    large = result.effect.values.abs()[result.chosen.values % 2 == 1]
    assert len(large) == min(screen, ran.numel())
    assert large.min() >= result.effect.values.abs()[result.chosen.values % 2 == 0].max()
    assert int((result.chosen.values >= 2).sum()) == min(sample, ran.numel())


def test_the_rank_correlation_is_that_of_the_drawn_cells():
    clean, corrupt = split([[(1, 2), (3, 4), (5, 6), (7, 8)]])
    result = attribution_patching(MODEL, clean, corrupt, METRIC, site="hook_mlp_out", each=("layer", "pos"), sample=8)
    drawn = result.chosen.values == 2
    assert int(drawn.sum()) == 8
    pair = [
        (each / each.abs().max() * 1e5).round().tolist()
        for each in (result.effect.values[drawn], result.exact.values[drawn])
    ]
    ranks = [
        torch.tensor([sum(b < a for b in values) + sum(b == a for b in values) / 2 for a in values]) for values in pair
    ]
    assert result.rank_correlation == pytest.approx(float(torch.corrcoef(torch.stack(ranks))[0, 1]), abs=1e-5)
    assert attribution_patching(MODEL, clean, corrupt, METRIC).rank_correlation is None
    assert rank_correlation(torch.ones(3), torch.arange(3.0)) is None
    assert rank_correlation(torch.tensor([1.0, 1.0, 2.0]), torch.tensor([3.0, 3.0, 9.0])) == 1.0


def test_what_rounding_leaves_of_zeros_has_no_rank():
    estimates = torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0])
    for noise in (torch.tensor([3e-7, -2e-7, 1e-7]), torch.tensor([-1e-7, 0.0, 2e-7])):
        assert rank_correlation(estimates, torch.cat([noise, torch.tensor([0.5, 0.6])])) == 1.0
    assert rank_correlation(estimates, torch.tensor([0.0, 3e-5, 0.0, 0.5, 0.6])) < 1.0


def test_the_whole_grid_costs_three_forward_passes():
    from torch.utils.flop_counter import FlopCounterMode

    model = small(hidden_size=64, intermediate_size=128, num_hidden_layers=10)
    clean, corrupt = list(range(8)), list(range(1, 9))
    with FlopCounterMode(display=False) as once:
        model.run(clean, logits="last")
    with FlopCounterMode(display=False) as whole:
        attribution_patching(model, clean, corrupt, METRIC, site="attn.hook_z", each=("layer", "pos", "head"))
    assert whole.get_total_flops() <= 3.5 * once.get_total_flops()


def test_noise_is_a_corruption_too():
    noise = mi.intervene("hook_embed", mi.Noise(0.5, seed=1).at(pos=1))
    result = attribution_patching(MODEL, [1, 2, 3], noise, METRIC, steps=16)
    edited = MODEL.run([1, 2, 3], noise).last_logits[0]
    torch.testing.assert_close(result.corrupt.values[0], edited[3] - edited[5], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(result.effect.values[0], torch.tensor([0.0, 1.0, 0.0]), atol=2e-2, rtol=0)


def test_what_cannot_be_estimated_is_refused():
    clean, corrupt = [1, 2, 3], [1, 2, 4]

    def refused(kind, match, **options):
        with pytest.raises(kind, match=match):
            attribution_patching(MODEL, clean, corrupt, options.pop("metric", METRIC), **options)

    refused(SelectorError, "name 'layer' and any of 'pos', 'd_model'", each=("pos",))
    refused(SelectorError, "name 'layer'", each=("layer", "head"))
    refused(SelectorError, "screen=-1", screen=-1)
    refused(SelectorError, "steps=-1", steps=-1)
    refused(SelectorError, "level=0", level=0)
    refused(UnsupportedAnalysis, "qk_fix is for queries and keys", qk_fix=True)
    refused(UnsupportedAnalysis, "'hook_resid_pre' is the stream itself", grad_drop=True)
    refused(ValueMismatch, "'rank' has no gradient", metric=mi.rank(3))
    with pytest.raises(UnsupportedAnalysis, match="there is one layer only"):
        attribution_patching(small(num_hidden_layers=1), clean, corrupt, METRIC, site="hook_mlp_out", grad_drop=True)
    with pytest.raises(SelectorError, match="or activation_patching, which takes spans"):
        attribution_patching(talking(), "The capital of", "Of", mi.logit(7))
    with pytest.raises(ValueMismatch, match="the same logit difference"):
        attribution_patching(MODEL, clean, clean, METRIC)


def test_json_gives_back_an_equal_result_and_the_page_shows_it(tmp_path):
    result = attribution_patching(MODEL, [[1, 2], [3, 4]], [[1, 3], [3, 5]], METRIC, screen=2)
    assert AttributionPatching.from_json(result.to_json()) == result
    plain = attribution_patching(MODEL, [[1, 2], [3, 4]], [[1, 3], [3, 5]], METRIC)
    assert plain.exact is None
    assert AttributionPatching.from_json(plain.to_json()).effect == plain.effect
    page = result.to_html(tmp_path / "atp.html")
    assert "estimate of each pair" in page
    assert "exact effect" in page
    assert "http" not in page.lower().replace("http-equiv", "")


def test_the_command_estimates_where_tiny_world_keeps_the_country(capsys, tmp_path):
    data = tmp_path / "atp.json"
    prompts = ["The capital of France is", "The capital of Italy is"]
    arguments = ["atp", "tiny-world", *prompts, "--answer", " Paris", "--wrong", " Rome", "--json", str(data)]
    assert main([*arguments, "--screen", "4", "--sample", "6"]) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert "Largest estimate 0.81 at layer 2, pos 5 ·is" in said
    assert "over 6 drawn cells" in said
    result = AttributionPatching.from_json(data)
    assert result.exact.sel(layer=1, pos=" Italy").item() > 0.9
    assert main([*arguments, "--site", "attn.hook_k", "--qk-fix", "--grad-drop", "--steps", "2"]) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert "mean of 2 gradients between the prompts, softmax computed anew, sizes" in said
