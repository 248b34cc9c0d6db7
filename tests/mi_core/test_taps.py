from __future__ import annotations

import pytest
import torch
from small_models import random

from mi_core.errors import HookContractBroken
from mi_core.names import Point
from mi_core.protocols import Site
from mi_core.selection import Selection
from mi_core.taps import IDLE, BoundTap, PointActions, Record

SITE = Site("hook_x", ("batch", "pos", "d_model"), {"d_model": 4}, layers=(0,))
POINT = Point("blocks.0.hook_x", SITE, 0)
WHOLE = Selection(SITE.dims, {})


def test_the_idle_tap_is_the_identity_and_knows_nothing() -> None:
    x = random(1, 2, 4)
    assert IDLE("anything", x) is x
    assert not IDLE.wants("anything")
    assert not IDLE.edits("anything")
    assert IDLE.cut_edges() is None
    assert not hasattr(IDLE, "__dict__")


def test_a_tap_acts_at_its_sites_only_and_records_what_fired() -> None:
    record = Record()
    tap = BoundTap({"hook_x": PointActions(POINT, after=WHOLE)}, record)
    x = random(1, 2, 4)
    assert tap("hook_y", x) is x
    assert record.fired == set()
    assert tap("hook_x", x) is x
    assert record.fired == {"blocks.0.hook_x"}
    assert record.after["blocks.0.hook_x"] is x
    assert tap.wants("hook_y", "hook_x")
    assert not tap.wants("hook_y")


def test_a_site_lies_on_the_path_if_it_is_written_or_read_under_gradients() -> None:
    read = PointActions(POINT, after=WHOLE)
    assert not BoundTap({"hook_x": read}, Record()).edits("hook_x")
    assert BoundTap({"hook_x": PointActions(POINT, after=WHOLE, grad=True)}, Record()).edits("hook_x")
    assert not BoundTap({"hook_x": PointActions(POINT, before=WHOLE, grad=True)}, Record()).edits("hook_x")
    assert BoundTap({"hook_x": PointActions(POINT, steps=[lambda v: v])}, Record()).edits("hook_x")


def test_steps_run_in_order_and_pads_stay() -> None:
    pads = torch.tensor([[[False], [True]]])
    acts = PointActions(POINT, steps=[lambda v: v + 1, lambda v: v * 2], pads=pads, before=WHOLE, after=WHOLE)
    record, x = Record(), random(1, 2, 4)
    new = BoundTap({"hook_x": acts}, record)("hook_x", x)
    assert torch.equal(new[:, 0], 2 * (x[:, 0] + 1))
    assert torch.equal(new[:, 1], x[:, 1])
    assert record.before["blocks.0.hook_x"] is x
    assert record.after["blocks.0.hook_x"] is new


@pytest.mark.parametrize("shape", [(1, 2, 5), (1, 2), (1, 2, 4, 1)])
def test_a_value_that_is_not_what_was_declared_breaks_the_contract(shape: tuple[int, ...]) -> None:
    with pytest.raises(HookContractBroken, match="is declared as") as caught:
        BoundTap({"hook_x": PointActions(POINT, after=WHOLE)}, Record())("hook_x", torch.zeros(shape))
    assert str(list(shape)) in str(caught.value)


def test_asking_for_cut_edges_counts_as_firing() -> None:
    record, cut = Record(), torch.ones(1, 1, 2, 2, dtype=torch.bool)
    assert BoundTap({}, record, cut, ("blocks.0.attn.hook_attn_scores",)).cut_edges() is cut
    assert record.fired == {"blocks.0.attn.hook_attn_scores"}


def test_closed_entries_stay_closed() -> None:
    site = Site("hook_s", ("batch", "key_pos"), layers=(0,), keeps_masked=True)
    acts = PointActions(Point("blocks.0.hook_s", site, 0), steps=[torch.zeros_like])
    seen = acts.run(torch.tensor([[1.0, -torch.inf]]), Record())
    assert seen.tolist() == [[0.0, -torch.inf]]


def test_a_step_in_another_dtype_is_brought_back() -> None:
    acts = PointActions(POINT, steps=[lambda v: v.double()])
    assert acts.run(random(1, 2, 4), Record()).dtype == torch.float32
