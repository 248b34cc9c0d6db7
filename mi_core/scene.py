"""What an intervention sees besides the activation: the point, the rows, the selection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mi_core.layout import Layout
from mi_core.names import Point
from mi_core.selection import Selection
from mi_core.selectors import Selector

__all__ = ["Scene", "real_entries"]


@dataclass(frozen=True, eq=False)
class Scene:
    """One intervention at one point in one call."""

    point: Point
    selectors: Mapping[str, Selector]
    selection: Selection
    """What is selected in the rows of this call."""
    layout: Layout
    rows: Int[Tensor, "batch"]
    """Each row's number in the whole run (a call may cover some of its rows)."""
    whole: Layout
    """The layout of the whole run."""
    of_whole: Selection
    """What is selected in the whole run."""

    @property
    def dims(self) -> tuple[str, ...]:
        """The site's dims."""
        return self.point.site.dims

    def free(self, dim: str) -> bool:
        """Whether nothing is selected along a dim."""
        return dim not in self.selection.choices

    def selected_rows(self) -> Int[Tensor, "rows"]:
        """The numbers, in the whole run, of the rows that the selection reaches in this call."""
        batch = self.selection.choices.get("batch")
        return self.rows if batch is None else self.rows[batch.index]

    def all_rows(self) -> Int[Tensor, "rows"]:
        """The numbers of the rows that the selection reaches in the whole run."""
        batch = self.of_whole.choices.get("batch")
        return torch.arange(len(self.whole.ids)) if batch is None else batch.index

    def places(self) -> Int[Tensor, "rows"]:
        """Where the selected rows of this call stand among those of the whole run."""
        place = {row: here for here, row in enumerate(self.all_rows().tolist())}
        return torch.tensor([place[row] for row in self.selected_rows().tolist()], dtype=torch.long)

    def present(self, x: Tensor) -> Bool[Tensor, "..."]:
        """Which of the gathered entries are real tokens, broadcastable to ``x``."""
        return real_entries(self.selection.counts(self.layout), self.dims, x)

    def coordinates(self, dim: str, x: Tensor) -> Int[Tensor, "..."]:
        """The real index of each gathered entry along a dim, broadcastable to ``x``."""
        view = [1] * x.ndim
        axis = self.dims.index(dim)
        view[axis] = x.shape[axis]
        if dim == "batch":
            return self.selected_rows().reshape(view)
        choice, batch = self.selection.choices.get(dim), self.selection.choices.get("batch")
        index = torch.arange(x.shape[axis]) if choice is None else choice.index
        per_row = index.ndim == 2
        if per_row and batch is not None:
            index = index[batch.index]
        if per_row:
            view[0] = len(index)
        index = index.reshape(view)
        if dim in ("pos", "query_pos") and self.layout.skipped is not None:
            index = index + self.layout.skipped[selected_in_call(self)].reshape([-1] + [1] * (x.ndim - 1))
        if dim in ("pos", "query_pos") and bool(self.whole.start.any()):
            # positions go on behind what a memory covers
            index = index + self.whole.start[self.selected_rows()].reshape([-1] + [1] * (x.ndim - 1))
        return index


def selected_in_call(scene: Scene) -> Int[Tensor, "rows"]:
    """Which rows of the call the selection reaches."""
    batch = scene.selection.choices.get("batch")
    return torch.arange(len(scene.rows)) if batch is None else batch.index


def real_entries(counts: Mapping[str, Tensor], dims: Sequence[str], x: Tensor) -> Bool[Tensor, "..."]:
    """Which entries of a left-aligned ``x`` are real tokens, broadcastable to it; ``counts`` of each row by dim."""
    result = torch.ones([1] * x.ndim, dtype=torch.bool)
    for dim, count in counts.items():
        view = [1] * x.ndim
        axis = dims.index(dim)
        view[0], view[axis] = len(count), x.shape[axis]
        result = result & (torch.arange(x.shape[axis]) < count[:, None]).reshape(view)
    return result.to(x.device)
