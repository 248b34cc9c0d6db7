"""Splices in two passes against what they should do, computed by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from small_models import LAYOUTS, ROWS, SEEDS, close, laid_out, random, small

import mi_core as mi
import mi_dictionaries as md
from mi_core.errors import SpecError, ValueMismatch

D, F = 16, 24
STREAM = tuple(f"blocks.{layer}.hook_resid_post" for layer in (0, 1, 2))
POST = f"{STREAM[0]}.hook_sae_acts_post"
ROW = [[5, 17, 30, 2], [7, 8]]


def crosscoder(seed: int = 0, width: int = D) -> md.SparseDictionary:
    weights = {"W_enc": random(3, width, F, seed=seed), "W_dec": 0.3 * random(F, 3, width, seed=seed + 1)}
    return md.SparseDictionary(
        reads=STREAM, b_enc=random(F, seed=seed + 2), b_dec=random(3, width, seed=seed + 3), **weights
    )


def captured(inputs: Any, spec: mi.HookSpec | None = None, **how: Any) -> mi.Run:
    return small().run(inputs, (spec or mi.HookSpec()) + mi.capture(STREAM), **how)


@given(ROWS, LAYOUTS, SEEDS)
def test_a_feature_that_is_ablated_is_taken_away_at_every_point(rows: list[list[int]], layout: str, seed: int) -> None:
    held, (ids, mask) = crosscoder(seed), laid_out(rows, layout)
    clean = captured(ids, attention_mask=mask)
    f = held.encode(torch.stack([clean[point] for point in STREAM], dim=-2)).dense()
    edit = mi.intervene(POST, mi.Zero().at(feature=3))
    spec = md.precomputed_splice(small(), ids, held, edit, attention_mask=mask)
    found = captured(ids, spec, attention_mask=mask)
    for number, point in enumerate(STREAM):
        wanted = clean[point] - f[..., 3:4] * held.W_dec[3, number]
        close(found[point][found.mask], wanted[clean.mask], 1e-4)


def test_without_an_edit_nothing_changes_and_without_the_error_term_reconstructions_stand_in() -> None:
    held, clean = crosscoder(), captured(ROW)
    assert torch.equal(captured(ROW, md.precomputed_splice(small(), ROW, held)).logits, clean.logits)
    found = captured(ROW, md.precomputed_splice(small(), ROW, held, error=False))
    wanted = held.forward(torch.stack([clean[point] for point in STREAM], dim=-2))
    for number, point in enumerate(STREAM):
        close(found[point][found.mask], wanted[..., number, :][clean.mask], 1e-5)


def test_a_dictionary_of_one_point_is_spliced_the_same_in_one_pass_and_in_two() -> None:
    held = md.SparseDictionary(
        reads=STREAM[:1], writes=STREAM[1:2], W_enc=random(D, F), W_dec=random(F, D, seed=1), W_skip=random(D, D)
    )
    edit = mi.intervene("mine.hook_sae_acts_pre", mi.Add(2.0).at(feature=5, pos=-1))
    for error in (True, False):
        once = small().run(ROW, md.splice(held, error, "mine") + edit).logits
        twice = small().run(ROW, md.precomputed_splice(small(), ROW, held, edit, error=error, name="mine")).logits
        close(twice, once, 1e-4)


def test_positions_and_other_edits_narrow_and_join_it() -> None:
    held = crosscoder()
    edit = mi.intervene(POST, mi.Add(3.0).at(feature=2)) + mi.intervene(STREAM[0], mi.Scale(2.0))
    first = captured(ROW, mi.intervene(STREAM[0], mi.Scale(2.0)))
    spec = md.precomputed_splice(small(), ROW, held, edit)
    found = captured(ROW, spec.at(pos=0))
    starts = found.mask.int().argmax(1)
    rows = torch.arange(len(ROW))
    close(found[STREAM[0]][rows, starts], first[STREAM[0]][rows, starts] + 3 * held.W_dec[2, 0], 1e-4)
    untouched = small().run(ROW, mi.capture(STREAM))
    last = found.mask.shape[1] - 1 - found.mask.flip(1).int().argmax(1)
    close(found[STREAM[0]][rows, last], untouched[STREAM[0]][rows, last], 1e-5)


def test_what_is_no_splice_is_refused_and_told_what_to_do() -> None:
    with pytest.raises(SpecError, match=r"is a crosscoder: .*\.precomputed_splice\(model, inputs, dictionary, edits\)"):
        md.splice(crosscoder())
    with pytest.raises(ValueMismatch, match=r"width 12 at 'blocks.0.hook_resid_post', where this model has \[16\]"):
        md.precomputed_splice(small(), ROW, crosscoder(width=12))
    with pytest.raises(SpecError, match="grad= is of the run that the spec is for"):
        md.precomputed_splice(small(), ROW, crosscoder(), grad=True)
