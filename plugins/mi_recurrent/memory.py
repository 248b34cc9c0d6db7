"""What a recurrent part remembers: its tensors behind those prefixes at which it was asked to keep them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from mi_core.errors import MemoryMismatch, NotRecorded
from mi_core.protocols import Batch, Memory

__all__ = ["Snapshots", "behind", "cuts", "recall"]


@dataclass(frozen=True, eq=False)
class Snapshots:
    """Each tensor is ``[batch cut ...]``: as it was when the row had seen ``length[row, cut]`` positions."""

    kept: Mapping[str, Tensor]
    length: Int[Tensor, "batch cut"]
    """-1 where a row has no such prefix."""

    def cut(self, length: Int[Tensor, "batch"]) -> Snapshots:
        """As if row r had seen ``length[r]`` positions: a state cannot be taken back, so that must have been kept.

        Raises:
            NotRecorded: nothing was kept there; the message says where.
        """
        length = length.to(self.length.device)
        found = self.length == length[:, None]
        if not bool(found.any(1).all()):
            row = int((~found.any(1)).nonzero()[0])
            kept = sorted({n for n in self.length[row].tolist() if n >= 0})
            raise NotRecorded(
                f"row {row} kept its state behind {kept!r} positions, asked for {int(length[row])}: a recurrent state "
                "cannot be taken back. Record it there, or run with resumable=True, which records every position.",
                length=length,
            )
        index = found.to(torch.int8).argmax(1)
        every = torch.arange(len(index), device=index.device)
        return Snapshots({name: t[every, index][:, None] for name, t in self.kept.items()}, length[:, None])

    def rows(self, index: Int[Tensor, "rows"]) -> Snapshots:
        """Row r becomes row ``index[r]``."""
        index = index.to(self.length.device)
        kept = {name: tensor.index_select(0, index) for name, tensor in self.kept.items()}
        return Snapshots(kept, self.length.index_select(0, index))

    def to(self, device: Any) -> Snapshots:
        """The same on another device."""
        return Snapshots({name: t.to(device) for name, t in self.kept.items()}, self.length.to(device))

    def with_room(self, positions: int) -> Snapshots:
        """Itself: the one state that a row goes on from does not grow.

        Raises:
            MemoryMismatch: there are several.
        """
        if self.length.shape[1] != 1:
            raise MemoryMismatch(f"{self.length.shape[1]} states of each row are kept: cut to one.", memory=self)
        return self

    def tensors(self) -> Mapping[str, Tensor]:
        """Its tensors by name."""
        return {**self.kept, "length": self.length}

    def restored(self, tensors: Mapping[str, Tensor]) -> Snapshots:
        """The same kind of memory with other tensors.

        Raises:
            MemoryMismatch: other names, or other shapes behind rows and cuts; the message gives both.
        """
        seen, wanted = (
            {name: list(held[name].shape[2:]) for name in sorted(held) if name != "length"}
            for held in (tensors, self.kept)
        )
        if seen != wanted or "length" not in tensors:
            raise MemoryMismatch(f"it holds {seen}, the layer remembers {wanted}", seen=seen, wanted=wanted)
        return Snapshots({name: tensors[name] for name in self.kept}, tensors["length"])


def recall(memory: Memory | None, batch: Batch, **shapes: tuple[int, ...]) -> dict[str, Tensor] | None:
    """The tensors with which each row goes on; None at the start of all rows.

    Raises:
        MemoryMismatch: another part's memory, or a state of another shape; the message gives both.
    """
    if memory is None:
        return None
    if not isinstance(memory, Snapshots) or memory.kept.keys() != shapes.keys():
        held = sorted(memory.kept) if isinstance(memory, Snapshots) else type(memory).__name__
        raise MemoryMismatch(f"this part goes on from {sorted(shapes)!r}, got {held!r}", memory=memory)
    if len(memory.length) != len(batch.start):
        raise MemoryMismatch(
            f"the memory has {len(memory.length)} rows, the call {len(batch.start)}: give each row the memory of its "
            "own prefix",
            memory=memory,
        )
    here = memory if batch.room is not None else memory.cut(batch.start)
    found = {name: tensor[:, 0] for name, tensor in here.kept.items()}
    for name, shape in shapes.items():
        if tuple(found[name].shape[1:]) != shape:
            raise MemoryMismatch(
                f"the memory's {name!r} is {list(found[name].shape[1:])} in each row, this layer's is {list(shape)}",
                memory=memory,
            )
    return found


def cuts(batch: Batch, columns: int) -> tuple[Int[Tensor, "batch cut"], Int[Tensor, "batch cut"]]:
    """The prefix lengths that ``batch.record`` asks for (-1 where a row is shorter), and how many columns that are."""
    if isinstance(batch.record, Tensor):
        length = batch.record
    elif batch.record == "end":
        length = (batch.start + batch.length)[:, None]
    else:
        length = batch.start[:, None] + torch.arange(columns + 1, device=batch.start.device)
    real = (length >= batch.start[:, None]) & (length <= (batch.start + batch.length)[:, None])
    return torch.where(real, length, -1), torch.where(real, length - batch.start[:, None], 0)


def behind(
    before: Shaped[Tensor, "batch *rest"], after: Shaped[Tensor, "batch pos *rest"], index: Int[Tensor, "batch cut"]
) -> Shaped[Tensor, "batch cut *rest"]:
    """What is left behind so many columns: ``before`` the call, or ``after`` a column of it."""
    row = torch.arange(len(index), device=index.device)[:, None]
    return torch.cat((before[:, None].to(after.dtype), after), 1)[row, index]
