"""Streams of runs side by side wait on the host: nobody reads one before it is there, and the next ones come early."""

import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from late_copies import Late, LateMark

from mi_core.abreast import abreast
from mi_core.parking import Parking
from mi_core.placed import PlacedBackend
from mi_core.protocols import Stream

HOST = torch.device("cpu")


def stream(value, *, side=False):
    whole = torch.full((2, 3, 4), float(value))
    return Stream(whole, {"first": whole[:, ::2] + 0.5} if side else {})


def same(one, other):
    return torch.equal(one.resid, other.resid) and all(
        torch.equal(one.side[name], other.side[name]) for name in one.side
    )


@given(st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=5), st.integers(1, 4))
def test_streams_come_back_as_they_were_put_stage_by_stage(groups, n_stages):
    side = Late()
    parking = Parking(HOST, side)
    runs = [[stream(10 * at + each, side=beside) for each in range(size)] for at, (size, beside) in enumerate(groups)]
    waiting = [[parking.put(each) for each in run] for run in runs]
    for _ in range(n_stages):
        parking.turn()
        for run, away in zip(runs, waiting, strict=True):
            assert all(same(*pair) for pair in zip(run, away, strict=True))
        for at, run in enumerate(runs):
            here = parking.back(waiting[at], HOST)
            assert all(same(*pair) for pair in zip(run, here, strict=True))
            assert {each.resid.untyped_storage().data_ptr() for each in here} <= side.used_here
            waiting[at] = [parking.put(each) for each in here]
            assert {each.resid.untyped_storage().data_ptr() for each in here} <= side.used_beside
    parking.clear()


def test_what_was_put_has_no_numbers_until_the_host_has_waited():
    parking = Parking(HOST, Late())
    away = parking.put(stream(1))
    assert away.resid.isnan().all()
    parking.settle()
    assert same(away, stream(1))


def test_a_copy_to_the_host_waits_for_the_computation():
    side = Late()
    Parking(HOST, side).put(stream(1))
    assert side.log[:3] == [("mark", None), ("waits beside", None), ("copy", 1)]


def test_while_some_are_computed_with_as_many_others_come():
    side = Late()
    parking = Parking(HOST, side)
    waiting = [parking.put(stream(value)) for value in range(6)]
    parking.turn()
    begun = len(side.copies)
    parking.back(waiting[:2], HOST)
    assert len(side.copies) == begun + 4
    parking.back(waiting[2:4], HOST)
    assert len(side.copies) == begun + 6
    parking.back(waiting[4:5], HOST)
    parking.back([stream(9)], HOST)
    assert len(side.copies) == begun + 7, "one that nobody has put"


def test_streams_that_nobody_takes_are_forgotten():
    parking = Parking(HOST, Late())
    one, other = (parking.put(stream(value)) for value in range(2))
    parking.turn()
    parking.back([one], HOST)
    parking.turn()
    assert (parking._waiting, parking._coming, parking._put) == ({}, {}, {})
    assert same(parking.back([other], HOST)[0], stream(1))


def test_what_comes_is_never_taken_for_another_stream():
    side = Late()
    parking = Parking(HOST, side)
    one, other = (parking.put(stream(value)) for value in range(2))
    parking.turn()
    parking.back([one], HOST)
    side.reach(LateMark(side, len(side.copies)))
    known = weakref.ref(other.resid)
    del other
    assert known() is not None, "a stream made now may get the id of one that is no more"


def test_without_a_side_stream_everything_is_copied_at_once():
    parking = Parking(HOST, None)
    away = stream(1)
    assert parking.put(away) is away
    assert parking.back([away], HOST) == [away]


@pytest.mark.parametrize("ends", [False, True])
def test_a_run_that_ends_is_told_of_when_its_streams_are_there(ends):
    class Backend(PlacedBackend):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.parking, self.offloaded, self.blocks = Parking(HOST, Late()), {}, (None,)

        def present(self, unit):
            return torch.no_grad()

    backend, found = Backend(), []

    def run():
        yield -1
        away = backend.parking.put(stream(1))
        yield 0
        assert same(away, stream(1))
        away = backend.parking.put(stream(2))
        if not ends:
            yield 1
        return away

    abreast(backend, [run()], lambda _, away: found.append(away.resid.clone()))
    assert torch.equal(found[0], stream(2).resid)
