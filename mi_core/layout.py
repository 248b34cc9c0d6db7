"""Where each real token lies: in the layout that the user gave, and left-aligned inside.

Inside, column and position are one thing. At the end, results go back into the layout that was given, with zeros at
the pads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from mi_core.errors import ContextOverflow, MaskMismatch
from mi_core.prompts import Prompts
from mi_core.protocols import Batch, ModelShape

__all__ = ["POSITION_DIMS", "Layout"]

POSITION_DIMS = ("pos", "query_pos", "key_pos")


@dataclass(frozen=True, eq=False)
class Layout:
    """The rows of a call, left-aligned, and the way back."""

    ids: Shaped[Tensor, "batch pos *numbers"]
    """Left-aligned ids (or numbers); columns behind a row's length hold id 0."""
    length: Int[Tensor, "batch"]
    positions: Int[Tensor, "batch pos"]
    """Position indexes, left-aligned: ``position_ids``, else start + column."""
    start: Int[Tensor, "batch"]
    """What a memory covers already."""
    mask: Bool[Tensor, "batch column"] | None
    """The user's mask; None where every column is real."""
    skipped: Int[Tensor, "batch"] | None = None
    """How many columns of each row the call leaves out, because a base run covers them."""
    prompt: Int[Tensor, "batch"] | None = None
    """In a generation, how many tokens of each row are its prompt: where selectors are resolved."""
    room: int | None = None
    """As in `Batch`: how many keys there are in a call that is made into a graph."""

    @classmethod
    def of(cls, prompts: Prompts, start: Tensor | None = None) -> Layout:
        """Left-align prompts; ``start`` [batch] is what a memory covers already."""
        ids, mask = prompts.ids, prompts.mask
        batch, columns = ids.shape[:2]
        start = torch.zeros(batch, dtype=torch.long) if start is None else start
        if mask is not None and bool(mask.all()):
            mask = None
        if mask is None:
            length = torch.full((batch,), columns, dtype=torch.long)
            positions = prompts.position_ids
        else:
            length = mask.sum(1)
            width = int(length.max())
            order = torch.argsort((~mask).to(torch.int8), dim=1, stable=True)[:, :width]
            real = torch.arange(width) < length[:, None]
            ids = taken(ids, order, real)
            positions = prompts.position_ids
            if positions is not None:
                positions = torch.where(real, positions.gather(1, order), 0)
        if positions is None:
            positions = start[:, None] + torch.arange(ids.shape[1])
        return cls(ids, length, positions, start, mask)

    @property
    def columns(self) -> int:
        """Columns in the user's layout."""
        return self.ids.shape[1] if self.mask is None else self.mask.shape[1]

    @property
    def width(self) -> int:
        """Columns inside: the longest row."""
        return self.ids.shape[1]

    def size(self, dim: str) -> int | None:
        """How many entries a dim has in this call, if the call decides: batch and positions."""
        if dim == "batch":
            return self.ids.shape[0]
        if dim in ("pos", "query_pos"):
            return self.width
        if dim == "key_pos" and self.room is not None:
            return self.room
        if dim == "key_pos":
            return self.width if not self.start.any() else int((self.start + self.length).max())
        return None

    def counts(self, dim: str) -> Int[Tensor, "batch"]:
        """How many real entries each row has along a position dim."""
        return self.start + self.length if dim == "key_pos" else self.length

    def real(self, dim: str) -> Bool[Tensor, "batch pos"]:
        """Which entries of a position dim are real tokens, inside."""
        size = self.size(dim)
        assert size is not None
        counts = self.counts(dim)
        return torch.arange(size, device=counts.device) < counts[:, None]

    def pads(self, dims: Sequence[str]) -> Bool[Tensor, "..."] | None:
        """Which entries of an inside value with these dims are no real tokens, broadcastable; None where all are."""
        pads: Tensor | None = None
        for axis, dim in enumerate(dims):
            if dim not in POSITION_DIMS or (self.mask is None and dim != "key_pos"):
                continue
            real = self.real(dim)
            if self.room is not None or not bool(real.all()):
                view = [len(real), *[1] * (len(dims) - 1)]
                view[axis] = real.shape[1]
                here = ~real.reshape(view)
                pads = here if pads is None else pads | here
        return pads

    def rows(self, index: Tensor) -> Layout:
        """Some of the rows, cut to the longest of them."""
        length = self.length[index]
        width = int(length.max())
        return Layout(
            self.ids[index, :width],
            length,
            self.positions[index, :width],
            self.start[index],
            torch.arange(width) < length[:, None],
        )

    def picked(self, index: Tensor) -> Layout:
        """Some of the rows, as wide as before."""
        mask = None if self.mask is None else self.mask[index]
        return Layout(self.ids[index], self.length[index], self.positions[index], self.start[index], mask)

    def behind(self, first: Int[Tensor, "batch"]) -> Layout:
        """The columns of each row from its own ``first`` on, as a call that goes on from what lies before them."""
        if not bool(first.any()):
            return self
        length = self.length - first
        column = first[:, None] + torch.arange(int(length.max()))
        real = column < self.length[:, None]
        column = column.clamp(max=self.width - 1)
        return Layout(
            taken(self.ids, column, real),
            length,
            torch.where(real, self.positions.gather(1, column), 0),
            self.start + first,
            real,
            first,
        )

    def outward(self, value: Tensor, dims: Sequence[str]) -> Tensor:
        """A value of the inside in the user's layout: zeros at the pads."""
        if self.mask is None:
            return value
        inside = (self.mask.cumsum(1) - 1).clamp(min=0).to(value.device)
        row = torch.arange(len(inside), device=value.device)[:, None]
        for axis, dim in enumerate(dims):
            if dim not in ("pos", "query_pos", "key_pos") or (dim == "key_pos" and self.start.any()):
                continue
            moved = value.movedim(axis, 1)
            keep = self.mask.to(value.device).reshape(*self.mask.shape, *[1] * (moved.ndim - 2))
            value = torch.where(keep, moved[row, inside], torch.zeros((), dtype=value.dtype, device=value.device))
            value = value.movedim(1, axis)
        return value

    def inward(self, value: Tensor, dims: Sequence[str]) -> Tensor:
        """A value in the user's layout, left-aligned."""
        if self.mask is None:
            return value
        order = torch.argsort((~self.mask).to(torch.int8), dim=1, stable=True)[:, : self.width].to(value.device)
        row = torch.arange(len(order), device=value.device)[:, None]
        for axis, dim in enumerate(dims):
            if dim in POSITION_DIMS and value.shape[axis] == self.columns:
                value = value.movedim(axis, 1)[row, order].movedim(1, axis)
        return value

    def batch(self, device: torch.device, record: Tensor | str | None = None) -> Batch:
        """What one call of the blocks covers."""
        return Batch(
            inputs=self.ids.to(device),
            start=self.start.to(device),
            length=self.length.to(device),
            total=(self.start + self.length).to(device),
            positions=self.positions.to(device),
            record=record.to(device) if isinstance(record, Tensor) else record,
            room=self.room,
        )

    def check_positions(self, shape: ModelShape, name: str) -> None:
        """Refuse rows longer than the model's context, and positions that it would not read."""
        real = torch.arange(self.width) < self.length[:, None]
        if shape.no_positions:
            counted = self.start[:, None] + torch.arange(self.width)
            moved = real & (self.positions != counted)
            if bool(moved.any()):
                row, column = moved.nonzero()[0].tolist()
                raise MaskMismatch(
                    f"row {row} has position {int(self.positions[row, column])} at its token {column}, which would "
                    f"change nothing: {name} reads no positions ({shape.no_positions}). Leave position_ids out.",
                    row=row,
                )
        if shape.n_ctx is None:
            return
        highest = torch.where(real, self.positions, 0).amax(1)
        if int(highest.max()) < shape.n_ctx:
            return
        row = int(highest.argmax())
        raise ContextOverflow(
            f"row {row} needs position {int(highest[row])}, but {name} has {shape.n_ctx} positions (0 to "
            f"{shape.n_ctx - 1}). Nothing was run or cut: shorten the prompt ({int(self.length[row])} tokens here), "
            "or pass position_ids within the range.",
            row=row,
            length=int(self.length[row]),
            n_ctx=shape.n_ctx,
        )


def taken(
    ids: Shaped[Tensor, "batch pos *numbers"], column: Int[Tensor, "batch kept"], real: Bool[Tensor, "batch kept"]
) -> Shaped[Tensor, "batch kept *numbers"]:
    """The ids (or numbers) in these columns of each row; zeros where they are not real."""
    found = ids[torch.arange(len(column))[:, None], column]
    return torch.where(real.reshape(*real.shape, *[1] * (ids.ndim - 2)), found, 0)
