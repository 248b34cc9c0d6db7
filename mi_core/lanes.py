"""How weights get from the host to where they are computed with, and what of it can be done ahead of time."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from mi_core.side_streams import Mark, SideStream

__all__ = ["Beside", "Carried", "Lane", "OnDemand", "lane_to"]

PIECE: Final = 1 << 26
"""Bytes that are read or copied at one go."""


@dataclass(frozen=True)
class Carried:
    """Weights on their way."""

    values: Mapping[str, Tensor]
    there: Mark | None = None
    """Behind the last copy to the device, where copies run beside the computation."""


class Lane(Protocol):
    """The way to one device. Tied weights, which are one tensor, arrive as one."""

    def free(self) -> Mark | None:
        """When the memory of all that has left is free; asked in the thread that computes, before `carry`."""
        ...

    def carry(
        self, values: Mapping[str, Tensor], free: Mark | None, stopped: Callable[[], bool] | None = None
    ) -> Carried:
        """What can be done while others compute, in any thread; not to its end once it is ``stopped``.

        Without ``stopped``, in the thread that computes, which needs it now.
        """
        ...

    def arrive(self, carried: Carried) -> dict[str, Tensor]:
        """The rest, in the thread that computes."""
        ...

    def left(self) -> None:
        """Weights were let go in the thread that computes: what it asks for from now on does not use them."""
        ...


@dataclass(frozen=True)
class OnDemand:
    """To the host, or to a device without a stream for copies: pages are read ahead, whoever computes does the rest."""

    device: torch.device

    def free(self) -> None:
        """At once."""

    def carry(
        self, values: Mapping[str, Tensor], free: Mark | None, stopped: Callable[[], bool] | None = None
    ) -> Carried:
        """Read the pages of mapped files, of which who computes reads what it needs: nothing is copied."""
        for tensor in [] if stopped is None else each_once(values.values()):
            for piece in torch.split(pages(tensor), PIECE):
                if stopped is None or stopped():
                    break
                piece[:: mmap.PAGESIZE].sum()
        return Carried(values)

    def arrive(self, carried: Carried) -> dict[str, Tensor]:
        """Copy what is not there."""
        return replaced(carried.values, lambda value: value.to(self.device))

    def left(self) -> None:
        """The host's memory is free at once."""


class Beside:
    """To an accelerator, beside its computation: through two pieces of locked memory, one filled while one is copied.

    There are never more than two units' weights on the device: the next ones are given memory when the last that left
    are no longer computed with.
    """

    def __init__(self, device: torch.device, side: SideStream) -> None:
        self.device, self.side = device, side
        self._pieces: list[Tensor] = []
        self._copied: list[Mark | None] = [None, None]
        self._left: Mark | None = None
        self._turn = threading.Lock()
        """Who asks for weights that are not on their way waits for those that are: the pieces are there once."""

    def free(self) -> Mark | None:
        """The place in the computation where the last weights were let go."""
        return self._left

    def carry(
        self, values: Mapping[str, Tensor], free: Mark | None, stopped: Callable[[], bool] | None = None
    ) -> Carried:
        """Copy to the device, as ``tensor.to`` would lay it out there; the host waits for locked memory only."""
        if free is not None:
            free.synchronize()
        with self._turn, self.side.beside():
            there = replaced(values, lambda value: self._sent(value, stopped))
            return Carried(there, self.side.mark())

    def arrive(self, carried: Carried) -> dict[str, Tensor]:
        """Let the computation wait for the copies."""
        assert carried.there is not None
        self.side.wait(carried.there)
        for tensor in each_once(carried.values.values()):
            self.side.used(tensor)
        return dict(carried.values)

    def left(self) -> None:
        """Remember what the next copies wait for."""
        self._left = self.side.mark()

    def _sent(self, value: Tensor, stopped: Callable[[], bool] | None) -> Tensor:
        target = torch.empty_like(value, device=self.device)
        same = value if value.stride() == target.stride() else torch.empty_like(value).copy_(value)
        for here, there in zip(torch.split(raw(same), PIECE), torch.split(raw(target), PIECE), strict=True):
            if stopped is not None and stopped():
                break
            self._piece(here, there)
        return target

    def _piece(self, here: Tensor, there: Tensor) -> None:
        if not self._pieces:
            self._pieces = [self.side.locked((PIECE,), torch.uint8) for _ in range(2)]
        self._pieces.reverse()
        self._copied.reverse()
        if self._copied[0] is not None:
            self._copied[0].synchronize()
        piece = self._pieces[0][: len(here)]
        piece.copy_(here)
        self.side.copy(there, piece)
        self._copied[0] = self.side.mark()


def lane_to(device: torch.device, side: SideStream | None) -> Lane:
    """The way to a device."""
    return OnDemand(device) if side is None else Beside(device, side)


def each_once(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Tensors that may be named twice."""
    return list({id(tensor): tensor for tensor in tensors}.values())


def replaced(values: Mapping[str, Tensor], function: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Every tensor replaced, those that are one by one."""
    made = {id(tensor): function(tensor) for tensor in each_once(values.values())}
    return {name: made[id(tensor)] for name, tensor in values.items()}


def raw(tensor: Tensor) -> Tensor:
    """The bytes of a tensor without gaps, in the order of its memory."""
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)


def pages(tensor: Tensor) -> Tensor:
    """All bytes from a tensor's first to its last."""
    if tensor.numel() == 0:
        return torch.empty(0, dtype=torch.uint8)
    size = tensor.element_size()
    last = sum((count - 1) * stride for count, stride in zip(tensor.shape, tensor.stride(), strict=True))
    begin, count = int(tensor.storage_offset()) * size, (last + 1) * size
    found: Tensor = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage(), begin, (count,))  # type: ignore[call-overload]
    return found
