"""Weights on their way to a device: they arrive as they were, and nobody overtakes a copy."""

import mmap
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from late_copies import Late

from mi_core import lanes
from mi_core.lanes import Beside, OnDemand, pages

HOST = torch.device("cpu")


@st.composite
def weights(draw):
    """Matrices as families read them: whole, transposed, cut out of others, numbers of any type, and one tied."""
    made = {}
    for number in range(draw(st.integers(1, 5))):
        rows, columns = draw(st.integers(0, 9)), draw(st.integers(1, 9))
        whole = torch.arange(2 * rows * columns).view(2 * rows, columns)
        whole = (whole + number).to(draw(st.sampled_from([torch.float32, torch.bfloat16, torch.int8, torch.long])))
        cut = draw(st.sampled_from(["whole", "transposed", "rows", "columns", "single"]))
        views = {"whole": whole, "transposed": whole.T, "rows": whole[rows:], "columns": whole[:, 1:]}
        made[str(number)] = torch.tensor(float(number)) if cut == "single" else views[cut]
    made["tied"] = made["0"]
    return made


@given(st.lists(weights(), min_size=1, max_size=4), st.sampled_from([8, 64, 1 << 20]))
def test_what_arrives_is_what_was_sent_and_lies_as_a_plain_copy_would(several, piece):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "PIECE", piece)
        side = Late()
        for lane in (OnDemand(HOST), Beside(HOST, side)):
            on_their_way = []
            for values in several:
                on_their_way.append((values, lane.carry(values, lane.free(), lambda: False)))
                if len(on_their_way) == 2:
                    arrive(lane, *on_their_way.pop(0))
            arrive(lane, *on_their_way.pop())


def arrive(lane, values, carried):
    found = lane.arrive(carried)
    lane.left()
    assert found["tied"] is found["0"]
    for name, value in values.items():
        assert torch.equal(found[name], value)
        assert found[name].dtype == value.dtype
        if isinstance(lane, Beside):
            assert found[name].stride() == torch.empty_like(value).stride()
            assert found[name].untyped_storage().data_ptr() in lane.side.used_here


def test_the_next_weights_are_copied_when_the_last_that_left_are_no_longer_used():
    side = Late()
    lane = Beside(HOST, side)
    values = {"a": torch.ones(3)}
    lane.arrive(lane.carry(values, lane.free()))
    lane.left()
    side.log.clear()
    lane.carry(values, lane.free())
    assert side.log[0] == ("host waits", None), "for the mark that was made when they left"
    assert side.log[1][0] == "copy"


def test_who_asks_for_other_weights_waits_for_those_that_are_on_their_way(monkeypatch):
    monkeypatch.setattr(lanes, "PIECE", 8)
    lane, reached, going_on = Beside(HOST, Late()), threading.Event(), threading.Event()
    sent = [{"a": torch.arange(50.0)}, {"a": torch.arange(50.0) + 50}]
    carried = {}

    def midway():
        reached.set()
        return not going_on.wait(10)

    def carry(number, stopped):
        carried[number] = lane.carry(sent[number], None, stopped)

    threads = [threading.Thread(target=carry, args=(number, midway if number == 0 else None)) for number in (0, 1)]
    threads[0].start()
    assert reached.wait(10)
    threads[1].start()
    threads[1].join(0.05)
    assert threads[1].is_alive()
    going_on.set()
    for number, thread in enumerate(threads):
        thread.join(10)
        assert torch.equal(lane.arrive(carried[number])["a"], sent[number]["a"])


def test_what_is_dropped_is_not_carried_to_its_end(monkeypatch):
    monkeypatch.setattr(lanes, "PIECE", 4)
    side, asked = Late(), []
    Beside(HOST, side).carry({"a": torch.ones(30)}, None, lambda: asked.append(1) or len(asked) > 3)
    assert len(side.copies) == 3


def test_what_is_read_ahead_is_every_page_from_the_first_byte_to_the_last():
    whole = torch.arange(6 * mmap.PAGESIZE, dtype=torch.int16).view(6, -1)
    assert len(pages(whole)) == whole.nbytes
    assert len(pages(whole[2:4, 3:])) == 2 * (2 * mmap.PAGESIZE - 3)
    assert len(pages(whole.T[5:7])) == 2 * (5 * mmap.PAGESIZE + 2)
    assert len(pages(whole[:0])) == 0
