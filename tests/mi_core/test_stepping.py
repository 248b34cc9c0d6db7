from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import close, random, small

import mi_core as mi
from mi_core.layout import Layout
from mi_core.selection import Choice
from mi_core.stepping import Steps, settled

RESID = "blocks.1.hook_resid_post"


def rows_of(lengths: list[int]) -> Layout:
    """Rows of these lengths."""
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    return Layout(ids, torch.tensor(lengths), ids, torch.zeros(len(lengths), dtype=torch.long), None)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=3), st.data())
def test_behind_the_column_at_which_a_choice_is_settled_it_never_changes(lengths: list[int], data: Any) -> None:
    chosen = [data.draw(st.lists(st.integers(0, n - 1), unique=True)) for n in lengths]
    width = max(map(len, chosen))
    index = torch.tensor([row + [0] * (width - len(row)) for row in chosen], dtype=torch.long).reshape(
        len(lengths), width
    )
    present = torch.arange(width) < torch.tensor([len(row) for row in chosen])[:, None]
    found = settled("pos", Choice(index, present), rows_of(lengths))
    for row, length in zip(chosen, lengths, strict=True):
        assert len({column in row for column in range(found, length)}) <= 1
    if found:
        # one column earlier some row still changes
        assert any(
            found < length and (found in row) != (found - 1 in row) for row, length in zip(chosen, lengths, strict=True)
        )
    keys = settled("key_pos", Choice(index, present), rows_of(lengths))
    assert keys == max((max(row) + 1 for row in chosen if row), default=0)


@pytest.mark.parametrize(
    ("edit", "most"),
    [
        (mi.intervene(RESID, mi.Add(random(16)).at(pos=slice(-1, None))), 2),
        (mi.intervene(RESID, mi.Add(random(16)).at(pos=slice(None, 6))), 6),
        (mi.intervene("blocks.*.attn.hook_attn_scores", mi.Knockout(query=mi.GENERATED, key=0)), 3),
        (mi.intervene(RESID, mi.Zero().at(pos=slice(0, None, 2))), 10),
    ],
)
def test_steps_that_are_like_the_last_are_worked_out_once(
    edit: mi.HookSpec, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked_out = []
    inside = Steps._bound
    monkeypatch.setattr(Steps, "_bound", lambda *given: worked_out.append(1) or inside(*given))
    rows = [[1, 2, 3], [4, 5]]
    made = small().generate(rows, edit, max_new_tokens=10)
    assert len(worked_out) == most
    close(made.logits, small().generate(rows, edit, max_new_tokens=10, cache=False).logits)
