"""What one call of a generation covers, and which selected entries of the whole lie in it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mi_core.selection import Choice, Selection

__all__ = ["Window", "spread"]


@dataclass(frozen=True, eq=False)
class Window:
    """Some rows, each from its own column on: what one call covers."""

    rows: Int[Tensor, "rows"]
    """Their numbers in the whole."""
    first: Int[Tensor, "rows"]
    stop: Int[Tensor, "rows"]
    before: Int[Tensor, "rows"]
    """Positions that a memory covers: keys are counted from its first."""

    def part(self, selection: Selection) -> Selection | None:
        """The selected entries that lie in the call, counted from its first columns; None where there are none.

        Keys are counted from each row's first token: those that are not there yet are left out of the row, not of the
        shape.
        """
        if not selection.choices:
            return selection
        choices = dict(selection.rows(self.rows).choices)
        if "batch" in choices and len(choices["batch"].index) == 0:
            return None
        for dim in ("pos", "query_pos", "key_pos"):
            if dim in choices:
                inside = self._keys(choices[dim]) if dim == "key_pos" else self._columns(choices[dim])
                if inside is None:
                    return None
                choices[dim] = inside
                if dim != "key_pos" and self._covers(inside):
                    # nothing is left out, so nothing need be picked and put back
                    del choices[dim]
        return Selection(selection.dims, choices)

    def _covers(self, columns: Choice) -> bool:
        """Whether a choice is every column of the call in its order, in every row."""
        width = columns.index.shape[-1]
        if columns.drop or columns.per_row or columns.present is not None:
            return False
        return bool((self.stop - self.first == width).all()) and torch.equal(columns.index, torch.arange(width))

    def _columns(self, choice: Choice) -> Choice | None:
        index, present = spread(choice, len(self.rows))
        inside = present & (index >= self.first[:, None]) & (index < self.stop[:, None])
        width = int(inside.sum(1).max())
        if width == 0:
            return None
        order = torch.argsort((~inside).to(torch.int8), dim=1, stable=True)[:, :width]
        inside = inside.gather(1, order)
        return tidied(torch.where(inside, index.gather(1, order) - self.first[:, None], 0), inside, choice.drop)

    def _keys(self, choice: Choice) -> Choice | None:
        index, present = spread(choice, len(self.rows))
        inside = present & (index < (self.before + self.stop)[:, None])
        return tidied(torch.where(inside, index, 0), inside, choice.drop) if bool(inside.any()) else None

    def undropped(self, selection: Selection) -> Selection | None:
        """The same with every dim kept, as calls are joined."""
        part = self.part(selection)
        if part is None:
            return None
        return Selection(part.dims, {dim: replace(choice, drop=False) for dim, choice in part.choices.items()})

    def columns(self, choice: Choice | None) -> tuple[Int[Tensor, "rows n"], Bool[Tensor, "rows n"]]:
        """Which columns of the whole the entries of a part stand for, and which of them are there."""
        if choice is None:
            width = int((self.stop - self.first).max())
            index = self.first[:, None] + torch.arange(width)
            return index, index < self.stop[:, None]
        index, present = spread(choice, len(self.rows))
        return index + self.first[:, None], present


def spread(choice: Choice, rows: int) -> tuple[Int[Tensor, "rows n"], Bool[Tensor, "rows n"]]:
    """The entries of every row, and which of them are there."""
    index = choice.index if choice.per_row else choice.index.expand(rows, -1)
    return index, torch.ones_like(index, dtype=torch.bool) if choice.present is None else choice.present


def tidied(index: Int[Tensor, "rows n"], present: Bool[Tensor, "rows n"], drop: bool) -> Choice:
    """A choice, the same for all rows where it can be."""
    if not bool(present.all()):
        return Choice(index, present, drop)
    return Choice(index[0] if bool((index == index[0]).all()) else index, None, drop)
