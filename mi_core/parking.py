"""Where the streams of runs side by side wait between stages: in the host's memory, under way while others compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

from mi_core.moving import stream_on
from mi_core.protocols import Stream
from mi_core.side_streams import Mark, SideStream

__all__ = ["Parking"]

HOST: Final = torch.device("cpu")


class Parking:
    """The streams of one pass; a stream that was `put` away has its numbers behind `settle`, and not before.

    Streams come `back` in the order in which they were put: while some are computed with, the next ones come. Without
    a side stream, and to and from other devices, every copy is made at once.
    """

    def __init__(self, device: torch.device, side: SideStream | None) -> None:
        self.device, self._side = device, side
        self._put: dict[int, Stream] = {}
        self._waiting: dict[int, Stream] = {}
        self._coming: dict[int, tuple[Stream, Stream, Mark]] = {}
        """By the id of what waits, as in the others: what waits, so that nothing else gets its id, and what comes."""
        self._last: Mark | None = None

    def put(self, stream: Stream) -> Stream:
        """The stream in the host's memory; nobody reads it there before the next `settle`."""
        side = self._side
        if side is None or stream.resid.device != self.device:
            return stream_on(stream, HOST)
        ready = side.mark()
        with side.beside():
            side.wait(ready)
            away = each(stream, lambda value: fetched(side, value))
            self._last = side.mark()
        self._put[id(away.resid)] = away
        return away

    def back(self, streams: Sequence[Stream], device: torch.device) -> list[Stream]:
        """Streams on a device; as many of those that wait behind them begin to come."""
        side = self._side
        if side is None or device != self.device:
            return [stream_on(stream, device) for stream in streams]
        here = []
        for stream in streams:
            self._waiting.pop(id(stream.resid), None)
            begun = id(stream.resid) in self._coming
            _, there, mark = self._coming.pop(id(stream.resid)) if begun else self._begun(side, stream)
            side.wait(mark)
            here.append(each(there, lambda value: used(side, value)))
        for key in list(self._waiting)[: max(0, len(streams) - len(self._coming))]:
            self._coming[key] = self._begun(side, self._waiting.pop(key))
        return here

    def settle(self) -> None:
        """Let the host wait for all that was put: before a stage begins, and before a run's results are read."""
        if self._last is not None:
            self._last.synchronize()
            self._last = None

    def turn(self) -> None:
        """A stage begins: what was put in the last one waits; what was put before that and nobody took is forgotten."""
        self.settle()
        self._waiting, self._put = self._put, {}
        self._coming.clear()

    def clear(self) -> None:
        """The pass is over."""
        self.turn()
        self._waiting.clear()

    def _begun(self, side: SideStream, stream: Stream) -> tuple[Stream, Stream, Mark]:
        with side.beside():
            return stream, each(stream, lambda value: sent(side, value, self.device)), side.mark()


def each(stream: Stream, function: Callable[[Tensor], Tensor]) -> Stream:
    """A stream with other tensors."""
    return Stream(function(stream.resid), {name: function(value) for name, value in stream.side.items()})


def fetched(side: SideStream, value: Tensor) -> Tensor:
    """A copy in locked memory."""
    target = side.locked(tuple(value.shape), value.dtype)
    side.copy(target, value)
    side.used(value)
    return target


def sent(side: SideStream, value: Tensor, device: torch.device) -> Tensor:
    """A copy on the device."""
    target = torch.empty(value.shape, dtype=value.dtype, device=device)
    side.copy(target, value)
    return target


def used(side: SideStream, value: Tensor) -> Tensor:
    """It, kept from others while the computation uses it."""
    side.used(value)
    return value
