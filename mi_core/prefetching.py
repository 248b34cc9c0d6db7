"""Weights that come and go, brought ahead of time: while one unit computes, the next is on its way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from mi_core.budget import is_out_of_memory
from mi_core.lanes import Carried, Lane
from mi_core.side_streams import Mark

__all__ = ["Courier", "Parcel", "Stop"]


class Parcel(Protocol):
    """What a courier brings: the weights of one unit."""

    @property
    def bytes(self) -> int:
        """How much it is."""
        ...

    def read(self) -> Mapping[str, Tensor]:
        """It, in the host's memory."""
        ...


@dataclass(frozen=True)
class Stop:
    """A stage of a pass at which a parcel is asked for."""

    stage: int
    parcel: Parcel
    whole: bool = True
    """Whether all of it is needed, so that it is worth bringing before it is asked for."""


class Courier:
    """Brings parcels to where they are computed with, at most two at a time; a model has one.

    ``take`` and ``left`` frame the use of a parcel. Between them the next one is brought: the first that a journey, the
    stops of a pass, has not passed yet, or what `begin` names. Whoever asks for another gets it all the same.
    """

    def __init__(self, lane: Lane, room: int | None) -> None:
        self.lane, self.room = lane, room
        """The bytes for parcels where they are used; None: as many as there are."""
        self.ahead = True
        """Whether anything is brought before it is asked for."""
        self._here: list[Parcel] = []
        self._journeys: list[list[Stop]] = []
        self._errand: Errand | None = None
        self._passes = 0
        self._first: Stop | None = None

    @contextmanager
    def journey(self, stops: Sequence[Stop]) -> Iterator[Callable[[], None]]:
        """Meanwhile there are stops ahead; several runs side by side have each their own. Yields what starts it."""
        own = list(stops)
        self._journeys.append(own)
        self._first = own[0] if own and self._passes > 1 else None
        self._passes -= 1
        try:
            yield self._begin_next
        finally:
            self._journeys = [journey for journey in self._journeys if journey is not own]
            if own and self._errand is not None and not self._expected(self._errand.parcel):
                self.drop()

    @contextmanager
    def repeating(self, passes: int) -> Iterator[None]:
        """Meanwhile so many passes follow on each other: behind the last stop of one comes the first of the next."""
        self._passes = passes
        try:
            yield
        finally:
            self._passes, self._first = 0, None
            if self._errand is not None and not self._expected(self._errand.parcel):
                self.drop()

    def take(self, parcel: Parcel) -> dict[str, Tensor]:
        """The weights of a parcel where they are used, until it has `left`."""
        try:
            carried = self._fetched(parcel) or self.lane.carry(parcel.read(), self.lane.free())
            self._here.append(parcel)
            values = self.lane.arrive(carried)
        except BaseException:
            self.drop()
            raise
        for journey in self._journeys:
            if journey and journey[0].parcel is parcel:
                del journey[0]
        self._begin_next()
        return values

    def left(self, parcel: Parcel) -> None:
        """A parcel's tensors were let go, or never came."""
        if parcel in self._here:
            self._here.remove(parcel)
            self.lane.left()
            self._begin_next()

    def begin(self, parcel: Parcel) -> None:
        """Start bringing a parcel, if there is room beside what is here, and nothing else is on its way."""
        if self.ahead and self._errand is None and parcel not in self._here and self._fits(parcel):
            self._errand = Errand(parcel, self.lane)

    def drop(self) -> None:
        """Let go of what was begun and nobody has asked for."""
        errand, self._errand = self._errand, None
        if errand is not None:
            errand.drop()

    def _fetched(self, parcel: Parcel) -> Carried | None:
        """What was begun of a parcel, to its end; another's is dropped if they cannot both be here."""
        errand = self._errand
        if errand is None:
            return None
        if errand.parcel is not parcel:
            if not self._fits(parcel, errand.parcel):
                self.drop()
            return None
        carried = errand.result()
        self._errand = None
        if carried is None:
            for journey in self._journeys:
                journey.clear()  # there is no memory for two in this pass
        return carried

    def _begin_next(self) -> None:
        coming = (journey[0] for journey in self._journeys if journey)
        nearest = min(coming, key=lambda stop: stop.stage, default=self._first)
        if nearest is not None and nearest.whole:
            self.begin(nearest.parcel)

    def _fits(self, *parcels: Parcel) -> bool:
        """Whether parcels fit beside what is here: two in all, within the room."""
        those = [*self._here, *parcels]
        return len(those) <= 2 and (self.room is None or sum(parcel.bytes for parcel in those) <= self.room)

    def _expected(self, parcel: Parcel) -> bool:
        return any(stop.parcel is parcel for journey in self._journeys for stop in journey)


class Errand:
    """One parcel on its way, in a thread that ends when it is there."""

    def __init__(self, parcel: Parcel, lane: Lane) -> None:
        self.parcel, self._lane = parcel, lane
        self._stopped = threading.Event()
        self._carried: Carried | None = None
        self._error: BaseException | None = None
        # by the time that the thread asks, the present unit may have left too, and there is no need to wait for that
        self._thread = threading.Thread(target=self._run, args=(lane.free(),), name="bringing weights", daemon=True)
        self._thread.start()

    def _run(self, free: Mark | None) -> None:
        try:
            self._carried = self._lane.carry(self.parcel.read(), free, self._stopped.is_set)
        except BaseException as error:
            # without memory for two, whoever asks brings it when the other has gone
            if not (isinstance(error, RuntimeError) and is_out_of_memory(error)):
                self._error = error

    def result(self) -> Carried | None:
        """What was brought, or None if there was no memory for it.

        Raises:
            whatever went wrong on the way.
        """
        self._thread.join()
        carried, self._carried = self._carried, None
        if self._error is not None:
            raise self._error
        return carried

    def drop(self) -> None:
        """Stop as soon as possible, and let go."""
        self._stopped.set()
        self._thread.join()
        self._carried = None
