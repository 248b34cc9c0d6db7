from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import small

import mi_core as mi
from mi_core.binding import Binding, bind
from mi_core.errors import HookContractBroken, SelectorError
from mi_core.layout import Layout
from mi_core.prompts import read_prompts
from mi_core.spec import HookSpec

EVERY = "blocks.*.hook_resid_post"


def bound(spec: HookSpec, rows: Any = ((1, 2, 3), (4, 5))) -> Binding:
    prompts = read_prompts([list(row) for row in rows], None, d_vocab=61)
    return bind(spec, small().points, Layout.of(prompts), prompts.rows)


@given(st.lists(st.sampled_from([p.name for p in small().points if not p.site.read_only]), max_size=5))
def test_what_acts_is_listed_in_firing_order(names: list[str]) -> None:
    spec = sum((mi.capture(name) for name in names), HookSpec())
    order = [point.name for point in small().points]
    assert bound(spec).asked == sorted(set(names), key=order.index)


@pytest.mark.parametrize(
    ("spec", "last"),
    [
        (HookSpec(), -1),
        (mi.capture("hook_embed"), -1),
        (mi.capture(EVERY).at(layer=[0, 1]), 1),
        (mi.intervene("blocks.2.mlp.hook_post", mi.Zero()), 2),
        (mi.intervene("blocks.0.attn.hook_attn_scores", mi.Knockout()), 0),
        (mi.capture("ln_final.hook_scale"), 3),
        (mi.capture("*"), 3),
    ],
)
def test_the_last_layer_is_the_last_at_which_something_acts(spec: HookSpec, last: int) -> None:
    assert bound(spec).last_layer == last


def test_several_entries_at_one_point_keep_their_order() -> None:
    edits = [mi.Scale(2.0), mi.Zero(), mi.Add(1.0)]
    spec = sum((mi.intervene(EVERY, edit) for edit in edits), HookSpec())
    steps = bound(spec).steps["blocks.1.hook_resid_post"]
    assert [step.intervention for step in steps] == edits  # type: ignore[union-attr]


def test_only_what_looks_across_rows_needs_all_rows() -> None:
    source = small().run([[1, 2, 3], [3, 4]], mi.capture(EVERY))
    for edit, needs in ((mi.Mean(), True), (mi.Mean(source), False), (mi.Mean(over="pos"), False), (mi.Zero(), False)):
        assert bound(mi.intervene(EVERY, edit)).needs_all_rows == needs


def test_a_layer_that_has_none_of_the_points_is_refused() -> None:
    with pytest.raises(SelectorError, match=r"in the layers \[0, 1\]"):
        bound(mi.capture("blocks.{0..1}.hook_resid_post").at(layer=2))


def test_a_point_that_does_not_fire_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    block = small().backend.blocks[1]
    monkeypatch.setattr(block, "forward", lambda stream, batch, tap, memory: (stream, memory))  # type: ignore[attr-defined]
    with pytest.raises(
        HookContractBroken, match=r"'blocks.1.attn.hook_q' is listed by llama but did not fire \(nor did 1"
    ):
        small().run([[1, 2]], mi.capture(["blocks.1.attn.hook_q", "blocks.1.hook_mlp_out", EVERY]))
    with pytest.raises(HookContractBroken, match="cut_edges"):
        small().run([[1, 2]], mi.intervene("blocks.1.attn.hook_attn_scores", mi.Knockout(-1, 0)))
    with pytest.raises(HookContractBroken, match="returned none"):
        small().run([[1, 2]], resumable=True)


def test_binding_takes_no_memory_for_large_batches() -> None:
    rows = torch.zeros(64, 60, dtype=torch.long)
    bound(mi.intervene("*.hook_normalized", mi.Add(torch.ones(16))), rows.tolist())
