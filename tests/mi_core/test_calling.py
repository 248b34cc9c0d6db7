from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import LAYOUTS, ROWS, SEEDS, close, laid_out, random, small

import mi_core as mi
from mi_core.calling import in_order, row_chunks

Z, SCORES = "blocks.1.attn.hook_z", "blocks.1.attn.hook_attn_scores"


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(1, 20), st.none() | st.integers(0, 9))
def test_chunks_cover_every_row_once_and_hold_their_budget(
    lengths: list[int], tokens: int, padding: int | None
) -> None:
    chunks = row_chunks(torch.tensor(lengths), tokens, padding)
    assert sorted(torch.cat(chunks).tolist()) == list(range(len(lengths)))
    for chunk in chunks:
        widest = max(lengths[row] for row in chunk)
        assert len(chunk) == 1 or len(chunk) * widest <= tokens
        padded = sum(widest - lengths[row] for row in chunk)
        assert padding is None or padded <= padding
    for before, after in pairwise(chunks):  # none is closed while another row fits
        rows = [lengths[row] for row in (*before.tolist(), int(after[0]))]
        columns = len(rows) * rows[-1]
        assert columns > tokens or (padding is not None and columns - sum(rows) > padding)
    order = [lengths[row] for chunk in chunks for row in chunk]
    assert order == sorted(order)


def test_pieces_are_put_in_order_and_filled_with_zeros() -> None:
    pieces = [torch.ones(1, 1, 2), 2 * torch.ones(2, 3, 2)]
    whole = in_order(pieces, [torch.tensor([1]), torch.tensor([2, 0])], {1})
    assert whole.shape == (3, 3, 2)
    assert whole[:, 0, 0].tolist() == [2, 1, 2]
    assert not whole[1, 1:].any()


SPECS: list[Any] = [
    mi.capture("*"),
    mi.capture(Z).at(batch=0),
    mi.capture(Z).at(batch=-1, pos=-1),
    mi.capture(Z).at(pos=slice(-2, None), head=[2, 1]),
    mi.capture(SCORES).at(query_pos=-1, head=0),
    mi.intervene(Z, mi.Zero().at(batch=0)) + mi.capture(Z) + mi.capture(Z, before=True),
    mi.intervene(SCORES, mi.Knockout(-1, 0).at(batch=0)),
    mi.intervene(SCORES, mi.Knockout(slice(-2, None), 0).at(batch=-1, head=1)) + mi.capture(SCORES),
    mi.intervene(Z, mi.Add(random(4, 4)).at(pos=slice(-2, None), batch=-1)) + mi.capture(Z),
    mi.intervene(Z, mi.Noise(1.0)) + mi.capture(Z),
]


@given(ROWS, LAYOUTS, SEEDS, st.integers(1, 8), st.sampled_from(SPECS), st.sampled_from(["all", "last", None]))
def test_chunks_change_nothing_but_memory(
    rows: list[list[int]], layout: str, seed: int, tokens: int, spec: mi.HookSpec, logits: Any
) -> None:
    ids, mask = laid_out(rows, layout, seed)
    whole = small().run(ids, spec, attention_mask=mask, logits=logits)
    parts = small().run(ids, spec, attention_mask=mask, logits=logits, batch_tokens=tokens)
    assert list(parts) == list(whole)
    for name in whole:
        close(parts[name], whole[name])
    for name in whole.before:
        close(parts.before[name], whole.before[name])
    if logits is not None:
        close(parts.logits, whole.logits)
    assert parts.receipt.fired == whole.receipt.fired
    assert parts.receipt.kernels == whole.receipt.kernels
