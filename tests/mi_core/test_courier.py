"""The courier itself: what is begun when, beside what, and what waits for what."""

import threading

import torch
from hypothesis import given
from hypothesis import strategies as st
from late_copies import Late

from mi_core.lanes import Beside, OnDemand
from mi_core.prefetching import Courier, Stop

HOST = torch.device("cpu")


class Box:
    """A parcel of so many bytes."""

    def __init__(self, size):
        self.bytes, self.read_in = size, []

    def read(self):
        self.read_in.append(threading.current_thread().name)
        return {"w": torch.zeros(self.bytes, dtype=torch.uint8)}


def test_what_comes_waits_for_what_had_left_when_it_set_out():
    went, side = threading.Event(), Late()

    class Slow(Box):
        def read(self):
            assert went.wait(10)
            return super().read()

    first, second = Box(1), Slow(1)
    courier = Courier(Beside(HOST, side), None)
    courier.take(first)
    courier.begin(second)
    courier.left(first)
    went.set()
    courier.take(second)
    assert ("host waits", None) not in side.log, "the one before was still there"
    courier.left(second)
    courier.take(first)
    assert ("host waits", None) in side.log


@given(st.lists(st.lists(st.integers(0, 5), unique=True).map(sorted), min_size=1, max_size=3), st.integers(0, 40))
def test_runs_side_by_side_share_what_comes_and_room_is_kept(journeys, room):
    boxes = [Box(size) for size in (5, 10, 15, 20, 5, 30)]
    courier = Courier(OnDemand(HOST), room)
    asked = sorted({stage for journey in journeys for stage in journey})
    entered = [courier.journey([Stop(stage, boxes[stage]) for stage in journey]) for journey in journeys]
    begins = [journey.__enter__() for journey in entered]
    begins[0]()
    for stage in asked:
        courier.take(boxes[stage])
        on_the_way = [] if courier._errand is None else [courier._errand.parcel]
        assert all(sum(box.bytes for box in (boxes[stage], *on_the_way)) <= room for _ in on_the_way)
        later = [boxes[other] for other in asked if other > stage][:1]
        assert on_the_way == [box for box in later if box.bytes + boxes[stage].bytes <= room]
        courier.left(boxes[stage])
    for journey in entered:
        journey.__exit__(None, None, None)
    assert [len(box.read_in) for box in boxes] == [int(stage in asked) for stage in range(6)]
    assert courier._errand is None


def test_what_nobody_expected_is_brought_beside_what_is_on_its_way_or_in_its_place():
    first, second, third = Box(1), Box(1), Box(1)
    courier = Courier(OnDemand(HOST), None)
    with courier.journey([Stop(0, first), Stop(1, second)]) as begin:
        begin()
        courier.take(third)
        assert courier._errand.parcel is first
        courier.left(third)
        courier.take(first)
        courier.take(third)
        assert courier._errand is None, "there would be three"
        courier.left(third)
        assert courier._errand.parcel is second
        courier.left(first)
    assert courier._errand is None
    assert (len(first.read_in), len(second.read_in), third.read_in) == (1, 2, ["MainThread"] * 2)
