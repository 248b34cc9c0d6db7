"""The taps of several variants in one call of a block: each sees its own rows, or its own stretch of the one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mi_core.protocols import Tap
from mi_core.taps import IDLE, BoundTap

__all__ = ["Columns", "PackTap", "Place", "Rows", "joined_taps"]


@dataclass(frozen=True)
class Rows:
    """A variant's rows, in a call of variants below each other."""

    begin: int
    count: int

    def of(self, value: Tensor) -> Tensor:
        """A view of the rows."""
        return value[self.begin : self.begin + self.count]


@dataclass(frozen=True)
class Columns:
    """A variant's tokens, in a call in parts: a stretch of the one row that holds rows of so many columns."""

    begin: int
    rows: int
    width: int

    def of(self, value: Tensor) -> Tensor:
        """A view of the tokens as rows."""
        return value[0, self.begin : self.begin + self.rows * self.width].view(self.rows, self.width, *value.shape[2:])


Place = Rows | Columns


class PackTap:
    """The taps of several variants, each at its own place of the pack."""

    __slots__ = ("_members", "_rows")

    def __init__(self, members: Sequence[tuple[Place, BoundTap]], rows: int) -> None:
        self._members = members
        self._rows = rows

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """Each variant's edits at its place; the pack is copied once, only if somebody writes."""
        out = value
        for place, tap in self._members:
            if tap.wants(name):
                part = place.of(value)
                new = tap(name, part)
                if new is not part:
                    out = value.clone() if out is value else out
                    place.of(out).copy_(new)
        return out

    def wants(self, *names: str) -> bool:
        """Whether any variant looks at one of these."""
        return any(tap.wants(*names) for _, tap in self._members)

    def edits(self, *names: str) -> bool:
        """Whether any variant writes one of these."""
        return any(tap.edits(*names) for _, tap in self._members)

    def cut_edges(self) -> Tensor | None:
        """The edges that the variants cut, each in its own rows."""
        cuts = [(place, cut) for place, tap in self._members if (cut := tap.cut_edges()) is not None]
        if not cuts:
            return None
        sizes = [max(cut.shape[axis] for _, cut in cuts) for axis in range(1, 4)]
        joined = torch.zeros(self._rows, *sizes, dtype=torch.bool, device=cuts[0][1].device)
        for place, cut in cuts:
            place.of(joined).copy_(cut)
        return joined


def joined_taps(taps: Sequence[BoundTap | None], places: Sequence[Place], rows: int) -> Tap:
    """One tap for a call: the idle one where nobody looks inside the block."""
    members = [(place, tap) for place, tap in zip(places, taps, strict=True) if tap is not None and tap.inside]
    return PackTap(members, rows) if members else IDLE
