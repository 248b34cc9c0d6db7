"""Effective attention in the format of attention patterns, and the views of weights that have a sign."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_models import small
from torch import Tensor

import mi_core as mi
from mi_analyses import AttentionPatterns, attention_patterns, head_scores
from mi_core.errors import SelectorError

DATA = Path(__file__).parent.parent / "data"
MODELS = {name: mi.load(str(DATA / f"{name}-seed0")) for name in ("rwkv4", "rwkv5", "rwkv6", "rwkv7")}
EVERY = pytest.mark.parametrize("version", MODELS)
ROWS = [[7, 1, 9, 4, 2], [3, 8, 5]]
WEIGHTS, VALUES, READ = (f"mixer.{name}" for name in ("hook_effective_attn", "hook_v", "hook_wkv"))


def alone(version: str, row: list[int], site: str) -> Tensor:
    """A site of one row in all layers, float64."""
    return MODELS[version].run(row, mi.capture(f"blocks.*.{site}"), logits=None).stack(site)[:, 0].double()


def near(seen: Tensor, wanted: Tensor) -> None:
    assert seen.shape == wanted.shape
    difference = float((seen.double() - wanted).abs().max() / wanted.abs().max().clamp(min=1.0))
    assert difference < 2e-5, f"{difference:.1e} of the largest"


@EVERY
def test_signed_weights_times_values_are_what_is_read(version: str) -> None:
    result = attention_patterns(MODELS[version], ROWS, view="signed")
    assert (result.view, result.of_attention) == ("signed", False)
    for number, row in enumerate(ROWS):
        own = result.pattern.values[:, :, number]
        weights, values, read = (
            own[..., : len(row), : len(row)].double(),
            *(alone(version, row, s) for s in (VALUES, READ)),
        )
        if version == "rwkv4":  # a pattern for each channel
            near(torch.einsum("lcqk,lkc->lqc", weights, values[:, :, 0]), read[:, :, 0])
        else:
            near(torch.einsum("lhqk,lkhd->lqhd", weights, values), read)
        assert own[..., len(row) :, :].isnan().all()


@EVERY
def test_sizes_are_shown_unless_something_else_is_asked_for(version: str) -> None:
    result = attention_patterns(MODELS[version], ROWS)
    assert result.view == "absolute"
    for number, row in enumerate(ROWS):
        sizes = alone(version, row, WEIGHTS).abs()
        sizes = sizes / sizes.sum(-1, keepdim=True)
        sizes = sizes.mean(1, keepdim=True) if version == "rwkv4" else sizes
        near(result.pattern.values[:, :, number, : len(row), : len(row)], sizes)
        near(result.to_self.values[:, :, number], sizes.diagonal(dim1=-2, dim2=-1)[..., 1:].mean(-1))


@EVERY
def test_shares_are_what_each_key_adds_along_the_whole(version: str) -> None:
    result = attention_patterns(MODELS[version], ROWS, view="share")
    row = ROWS[0]
    weights, values, read = (alone(version, row, site) for site in (WEIGHTS, VALUES, READ))
    if version == "rwkv4":
        each = torch.einsum("lcqk,lkc->lqkc", weights, values[:, :, 0])[:, None]
    else:
        each = torch.einsum("lhqk,lkhd->lhqkd", weights, values)
    whole = read.transpose(1, 2)[..., None, :]
    wanted = (each * whole).sum(-1) / whole.square().sum(-1)
    near(result.pattern.values[:, :, 0], wanted)
    near(result.pattern.values[:, :, 0].sum(-1), torch.ones_like(wanted[..., 0]))
    # summaries are of sizes, so that none is negative
    assert bool((result.to_first.values >= 0).all())


def test_positive_weights_leave_out_what_is_removed() -> None:
    kept = attention_patterns(MODELS["rwkv7"], ROWS[0], view="positive", layer=[1], head=-1)
    weights = alone("rwkv7", ROWS[0], WEIGHTS)[1, -1].clamp(min=0)
    near(kept.pattern.values[0, 0, 0], (weights / weights.sum(-1, keepdim=True)).nan_to_num())
    assert (kept.pattern.coords["layer"], kept.pattern.coords["head"]) == ((1,), (1,))


def test_patterns_of_attention_stay_as_they_are_unless_a_view_is_asked_for() -> None:
    model, row = small(), ROWS[0]
    result = attention_patterns(model, row)
    assert (result.view, result.of_attention) == ("signed", True)
    shares = attention_patterns(model, row, view="share").pattern.values[:, :, 0].double()
    near(shares.sum(-1), torch.ones_like(shares[..., 0]))
    run = model.run(
        row, mi.capture(["blocks.*.attn.hook_pattern", "blocks.*.attn.hook_v_per_head", "blocks.*.attn.hook_z"])
    )
    z = run.stack("attn.hook_z")[:, 0].double().transpose(1, 2)
    each = torch.einsum(
        "lhqk,lkhd->lhqkd", *(run.stack(s)[:, 0].double() for s in ("attn.hook_pattern", "attn.hook_v_per_head"))
    )
    near(shares, (each * z[..., None, :]).sum(-1) / z.square().sum(-1, keepdim=True))


@EVERY
def test_heads_are_scored_by_effective_attention(version: str) -> None:
    result = head_scores(MODELS[version], length=5, sequences=2)
    assert result.view == "absolute"
    assert bool(((result.scores.values >= 0) & (result.scores.values <= 1)).all())
    assert result.scores.shape[2] == (
        1 if version == "rwkv4" else MODELS[version].hook_points("blocks.0.mixer.hook_k")[0].site.sizes["head"]
    )


def test_a_view_that_does_not_exist_is_refused_and_a_result_comes_back_from_its_file(tmp_path: Path) -> None:
    with pytest.raises(SelectorError, match="signed, absolute, positive, share"):
        attention_patterns(MODELS["rwkv7"], ROWS, view="softmax")
    result = attention_patterns(MODELS["rwkv7"], ROWS, view="signed")
    assert AttentionPatterns.from_json(result.to_json()) == result
    page = result.to_html(tmp_path / "page.html")
    assert '"signed": true' in page
    assert "red against it" in page
