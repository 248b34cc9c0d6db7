from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import LAYOUTS, ROWS, SEEDS, close, laid_out, random, small
from torch import Tensor

import mi_core as mi
from mi_core.errors import SpecError, ValueMismatch

SCORES, PATTERN, Z = "blocks.1.attn.hook_attn_scores", "blocks.1.attn.hook_pattern", "blocks.1.attn.hook_z"
WHERE = st.sampled_from([None, 0, -1, slice(-2, None), [0]])


def cut_by_hand(rows: list[list[int]], mask: Tensor, query: Any, key: Any) -> Tensor:
    """True where the edge is cut, in the user's layout."""
    cut = torch.zeros(len(rows), mask.shape[1], mask.shape[1], dtype=torch.bool)
    for number in range(len(rows)):
        columns = mask[number].nonzero()[:, 0]
        places = [
            columns if pos is None else columns[[pos] if isinstance(pos, int) else pos].reshape(-1)
            for pos in (query, key)
        ]
        cut[number, places[0][:, None], places[1]] = True
    return cut


@given(ROWS, LAYOUTS, SEEDS, WHERE, WHERE, st.sampled_from([None, 2]), st.sampled_from([None, 4]))
def test_a_knockout_is_a_softmax_over_what_is_left(
    rows: list[list[int]], layout: str, seed: int, query: Any, key: Any, head: int | None, limit: int | None
) -> None:
    ids, mask = laid_out(rows, layout, seed)
    edit = mi.Knockout(query, key) if head is None else mi.Knockout(query, key).at(head=head)
    spec = mi.intervene(SCORES, edit)
    plain = small().run(ids, mi.capture([SCORES, PATTERN]), attention_mask=mask)
    seen = small().run(ids, spec + mi.capture([PATTERN, SCORES, Z]), attention_mask=mask, batch_tokens=limit)
    blind = small().run(ids, spec + mi.capture(Z), attention_mask=mask, batch_tokens=limit)
    assert blind.receipt.kernels[1] == "fused, with cut edges"
    assert seen.receipt.kernels[1].startswith("explicit")
    cut = cut_by_hand(rows, mask, query, key)[:, None].expand_as(plain[SCORES])
    if head is not None:
        cut = cut & (torch.arange(4) == head)[:, None, None]
    real = (mask[:, None, :, None] & mask[:, None, None, :]).expand_as(cut)
    scores = torch.where(real, plain[SCORES], -torch.inf).masked_fill(cut, -torch.inf)
    wanted = scores.softmax(-1).nan_to_num(0.0)
    close(seen[PATTERN], wanted)
    assert not seen[PATTERN][cut].any()
    close(seen[Z], blind[Z])
    close(seen.logits, blind.logits)
    assert torch.isfinite(seen.logits).all()


@given(ROWS, LAYOUTS, SEEDS)
def test_no_write_to_the_scores_opens_a_closed_edge(rows: list[list[int]], layout: str, seed: int) -> None:
    ids, mask = laid_out(rows, layout, seed)
    spec = mi.intervene(SCORES, mi.Replace(3.0)) + mi.intervene(SCORES, mi.Knockout(-1, 0)) + mi.capture(PATTERN)
    pattern = small().run(ids, spec, attention_mask=mask)[PATTERN]
    for number in range(len(rows)):
        own = pattern[number][:, mask[number]][:, :, mask[number]]
        n = own.shape[-1]
        allowed = torch.ones(n, n).tril()
        allowed[-1, 0] = 0
        close(own, (allowed / allowed.sum(-1, keepdim=True).clamp(min=1)).expand_as(own))


def test_a_query_with_nothing_left_gets_zeros_and_zero_gradient() -> None:
    for spec in (mi.HookSpec(), mi.capture(PATTERN)):
        edits = mi.intervene(SCORES, mi.Knockout(query=1)) + mi.capture([Z, "blocks.0.hook_resid_post"])
        run = small().run([[1, 2, 3]], edits + spec, grad=True)
        assert not run[Z][0, 1].any()
        grads = run.vjp({Z: torch.ones_like(run[Z])}, "blocks.0.hook_resid_post")["blocks.0.hook_resid_post"]
        assert torch.isfinite(grads).all()


def by_hand(pattern: Tensor, cut: Tensor, scale: float | None, value: float | None) -> Tensor:
    """One row at a time, in Python numbers."""
    new = pattern.double().clone(memory_format=torch.contiguous_format)
    for index in range(new[..., 0].numel()):
        row, edges = new.view(-1, new.shape[-1])[index], cut.reshape(-1, cut.shape[-1])[index]
        edges = edges & (row > 0)
        total, others = row.sum(), row[~edges].sum()
        if not edges.any():
            continue
        if scale is not None:
            row[edges] *= scale
            if row.sum() > 0:
                row *= total / row.sum()
        elif value is not None:
            row[edges] = value
            if others > 0:
                row[~edges] *= (total - row[edges].sum()) / others
            elif value > 0:
                row *= total / row.sum()
    return new.float()


@given(
    ROWS,
    LAYOUTS,
    SEEDS,
    WHERE,
    st.sampled_from([0, -1, [0]]),
    st.sampled_from([(0.0, None), (2.0, None), (None, 0.0), (None, 0.4), (None, 1.0)]),
)
def test_reweighted_rows_keep_their_sum(
    rows: list[list[int]], layout: str, seed: int, query: Any, key: Any, how: tuple[float | None, float | None]
) -> None:
    ids, mask = laid_out(rows, layout, seed)
    edit = mi.Reweight(query, key, scale=how[0], value=how[1])
    spec = mi.intervene(PATTERN, edit) + mi.capture(PATTERN) + mi.capture(PATTERN, before=True)
    run = small().run(ids, spec, attention_mask=mask)
    before, after = run.before[PATTERN], run[PATTERN]
    cut = cut_by_hand(rows, mask, query, key)[:, None].expand_as(before)
    close(after, by_hand(before, cut, *how))
    assert not after[before == 0].any()
    if how not in ((0.0, None), (None, 0.0)):
        close(after.sum(-1), before.sum(-1))


def test_half_precision_rows_take_a_weight_of_one() -> None:
    run = small(dtype="bfloat16").run(
        [[1, 2, 3, 4]], mi.intervene(PATTERN, mi.Reweight(-1, 0, value=1.0)) + mi.capture(PATTERN)
    )
    close(run[PATTERN][0, :, -1].float(), torch.tensor([1.0, 0, 0, 0]).expand(4, 4))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: mi.Reweight(), "either scale= or value="),
        (lambda: mi.Reweight(scale=1.0, value=1.0), "either scale= or value="),
        (lambda: mi.Reweight(scale=-1.0), "at least 0"),
        (lambda: mi.Reweight(value=float("nan")), "at least 0"),
        (lambda: small().run([[1, 2]], mi.intervene(SCORES, mi.Reweight(scale=2.0))), "hook_pattern"),
        (lambda: small().run([[1, 2]], mi.intervene(Z, mi.Reweight(scale=2.0))), "hook_pattern"),
        (lambda: small().run([[1, 2]], mi.intervene(PATTERN, mi.Knockout(0, 0))), "hook_attn_scores"),
    ],
)
def test_edges_are_changed_where_edges_are(make: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        make()


def test_a_row_cannot_hold_more_than_its_sum() -> None:
    edit = mi.Reweight(-1, [0, 1], value=0.6)
    with pytest.raises(ValueMismatch, match=r"the weight 1\.2 of 1"):
        small().run([[1, 2, 3]], mi.intervene(PATTERN, edit))


def test_the_two_ways_to_say_an_edge_are_one() -> None:
    assert mi.Knockout(-1, [0, 1]) == mi.Knockout().at(query_pos=-1, key_pos=[0, 1])
    assert mi.Knockout(torch.tensor([0, 1])) == mi.Knockout([0, 1])
    assert mi.Knockout(slice(None), 0) == mi.Knockout(key=0)
    assert repr(mi.Reweight(1, 0, scale=2.0)) == "Reweight(scale=2.0).at(query_pos=1, key_pos=0)"


@given(ROWS, LAYOUTS, SEEDS)
def test_writes_to_the_pattern_never_bring_pads_in(rows: list[list[int]], layout: str, seed: int) -> None:
    ids, mask = laid_out(rows, layout, seed)
    spec = mi.intervene(PATTERN, mi.Add(0.1)) + mi.intervene(SCORES, mi.Scale(0.5)) + mi.capture(PATTERN)
    whole = small().run(ids, spec, attention_mask=mask)
    for number, row in enumerate(rows):
        alone = small().run([row], spec)
        close(whole[PATTERN][number][:, mask[number]][:, :, mask[number]], alone[PATTERN][0])
        close(whole.logits[number][mask[number]], alone.logits[0])
    value = random(*whole[PATTERN].shape, seed=seed)
    run = small().run(ids, mi.intervene(PATTERN, mi.Replace(value)) + mi.capture(PATTERN), attention_mask=mask)
    close(run[PATTERN], value * (mask[:, None, :, None] & mask[:, None, None, :]))


def test_edges_behind_a_memory_name_the_keys_of_the_whole_row() -> None:
    memory = small().run([[1, 2, 3], [4, 5]], resumable=True).memory()
    spec = mi.intervene(SCORES, mi.Knockout(query=-1, key=0)) + mi.capture(PATTERN)
    going_on = small().run([[6, 7], [8]], spec, memory=memory)
    whole = small().run([[1, 2, 3, 6, 7], [4, 5, 8]], spec)
    close(going_on[PATTERN][0, :, :, :5], whole[PATTERN][0, :, 3:])
    close(going_on[PATTERN][1, :, :1, :3], whole[PATTERN][1, :, 2:3, :3])
    close(going_on.logits[0], whole.logits[0, 3:])
