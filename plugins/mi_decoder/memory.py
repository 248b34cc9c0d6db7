"""What attention remembers of each row's prefix: its keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import pad

from mi_core.errors import MemoryMismatch, NotRecorded
from mi_core.protocols import Batch

__all__ = ["KeyValues", "Prefixes", "append", "ends", "extents", "per_head"]


class Prefixes:
    """Something of every position, left-aligned: row r is real in ``[0, length[r])``, anything may lie behind.

    What is made of it is a frozen dataclass whose tensors of four dims are ``[batch head key_pos channel]``.
    """

    length: Int[Tensor, "batch"]
    regime: Shaped[Tensor, "batch"] | None
    """What the rows' lengths meant for the rotary frequencies when this was made."""

    def changed(self, **changes: Tensor) -> Self:
        """The same kind, with some tensors changed."""
        return type(self)(**{**self.tensors(), **changes})

    def cut(self, length: Int[Tensor, "batch"]) -> Self:
        """As if row r had seen ``length[r]`` positions.

        Raises:
            NotRecorded: a row is asked for more positions than it has seen.
        """
        length = length.to(self.length.device)
        if bool((length > self.length).any()):
            raise NotRecorded(
                f"rows have seen {self.length.tolist()!r} positions, asked for {length.tolist()!r}: "
                "cut a memory to prefixes of what it has seen",
                length=length,
            )
        longest = int(length.max()) if len(length) else 0
        held = {name: tensor[:, :, :longest] for name, tensor in self.tensors().items() if tensor.ndim == 4}
        return self.changed(**held, length=length)

    def rows(self, index: Int[Tensor, "rows"]) -> Self:
        """Row r becomes row ``index[r]``."""
        if len(self.length) == 1 and not bool(index.any()):
            # one row, again and again: a view
            return self.changed(**{name: t.expand(len(index), *t.shape[1:]) for name, t in self.tensors().items()})
        index = index.to(self.length.device)
        return self.changed(**{name: tensor.index_select(0, index) for name, tensor in self.tensors().items()})

    def to(self, device: Any) -> Self:
        """The same on another device."""
        return self.changed(**{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def with_room(self, positions: int) -> Self:
        """The same with room for so many positions, all of which can be read: calls with `Batch.room` go on from it."""
        held = {name: tensor[:, :, :positions] for name, tensor in self.tensors().items() if tensor.ndim == 4}
        wider = {name: pad(tensor, (0, 0, 0, positions - tensor.shape[2])) for name, tensor in held.items()}
        return self.changed(**wider)

    def tensors(self) -> Mapping[str, Tensor]:
        """Its tensors by name."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {name: tensor for name, tensor in held.items() if tensor is not None}

    def restored(self, tensors: Mapping[str, Tensor]) -> Self:
        """The same kind of memory with other tensors: any rows and keys, as many channels.

        Raises:
            MemoryMismatch: tensors of other names or sizes; the message gives both.
        """
        seen, wanted = (
            {name: t.shape[-1] for name, t in held.items() if t.ndim == 4} for held in (tensors, self.tensors())
        )
        names = tensors.keys() - {"regime"}
        if seen != wanted or names != self.tensors().keys() - {"regime"}:
            raise MemoryMismatch(f"it holds {seen}, the layer remembers {wanted}", seen=seen, wanted=wanted)
        return type(self)(**tensors)

    def check_follows(self, batch: Batch) -> None:
        """Refuse a call that does not go on from this.

        Raises:
            MemoryMismatch: other rows than those of the memory, or a row that goes on behind what it has seen.
        """
        if batch.room is not None:  # who made room has seen to it
            return
        starts, _ = extents(batch)
        if len(starts) != len(self.length) or self._falls_short(batch):
            raise MemoryMismatch(
                f"the memory covers {self.length.tolist()!r} positions of its rows, the call goes on from {starts!r}: "
                "give each row the memory of its own prefix",
                length=self.length,
            )

    def _falls_short(self, batch: Batch) -> bool:
        """Whether some row goes on behind what it has seen."""
        # layers that remember one call share one tensor of lengths: it is read once, and kept so that its id stays its
        held: tuple[Tensor, bool] = batch.once(
            ("mi_decoder.falls_short", id(self.length)),
            lambda: (self.length, bool((batch.start > self.length).any())),
        )
        return held[1]


@dataclass(frozen=True, eq=False)
class KeyValues(Prefixes):
    """Keys (after rotary) and values.

    There are as many heads as the layer has key heads, or one for each query head where a write told them apart.
    """

    keys: Float[Tensor, "batch kv_head key_pos d_head"]
    values: Float[Tensor, "batch kv_head key_pos d_value"]
    length: Int[Tensor, "batch"]
    regime: Shaped[Tensor, "batch"] | None = None

    def restored(self, tensors: Mapping[str, Tensor]) -> KeyValues:
        """The same kind of memory with other tensors; heads of as many groups.

        Raises:
            MemoryMismatch: tensors of other names or sizes; the message gives both.
        """
        made = super().restored(tensors)
        heads, own = made.keys.shape[1], self.keys.shape[1]
        if heads % own:
            raise MemoryMismatch(f"it holds {heads} heads, the layer remembers {own}", seen=heads, wanted=own)
        return made

    def extend(
        self,
        batch: Batch,
        keys: Float[Tensor, "batch _ pos d_head"],
        values: Float[Tensor, "batch _ pos d_value"],
    ) -> tuple[Float[Tensor, "batch _ key_pos d_head"], Float[Tensor, "batch _ key_pos d_value"]]:
        """The prefix's keys and values, and the new ones right behind each row's own prefix.

        As many keys as the longest row has positions.

        Raises:
            MemoryMismatch: other rows than those of the memory, or a row that goes on behind what it has seen.
        """
        self.check_follows(batch)
        return append(self.keys, keys, batch), append(self.values, values, batch)


def extents(batch: Batch) -> tuple[list[int], list[int]]:
    """Where each row starts and ends, as numbers; read from the device once for each call."""
    found: tuple[list[int], list[int]] = batch.once(
        "mi_decoder.extents", lambda: (batch.start.tolist(), ends(batch).tolist())
    )
    return found


def ends(batch: Batch) -> Int[Tensor, "batch"]:
    """Where each row ends: one tensor for all layers of a call."""
    made: Tensor = batch.once("mi_decoder.ends", lambda: batch.start + batch.length)
    return made


def append(
    old: Float[Tensor, "batch _ _ d_head"], new: Float[Tensor, "batch _ pos d_head"], batch: Batch
) -> Float[Tensor, "batch _ key_pos d_head"]:
    """``old`` up to each row's start, then ``new``; what no row needs is cut off at the end.

    With `Batch.room` ``old`` itself, with ``new`` written in.
    """
    if batch.room is not None:
        row, head = (torch.arange(size, device=new.device) for size in old.shape[:2])
        place = (row[:, None], head, batch.start[:, None])
        return old.index_put_(place, per_head(new, old.shape[1]).squeeze(2).to(old.dtype))
    starts, stops = extents(batch)
    n_heads, longest, whole = max(old.shape[1], new.shape[1]), max(starts), max(stops)
    old, new = per_head(old, n_heads), per_head(new, n_heads)
    joined = torch.cat((old if old.shape[2] == longest else old[:, :, :longest], new), 2)
    if min(starts) != longest:
        columns = batch.start[:, None] + torch.arange(new.shape[2], device=new.device)
        joined = joined.scatter(2, columns[:, None, :, None].expand_as(new), new)
    return joined if joined.shape[2] == whole else joined[:, :, :whole]


def per_head(x: Float[Tensor, "batch _ pos d_head"], n_heads: int) -> Float[Tensor, "batch _ pos d_head"]:
    """Key heads repeated so that query head h reads head h."""
    batch, n_kv_heads, pos, d_head = x.shape
    if n_kv_heads == n_heads:
        return x
    groups = n_heads // n_kv_heads
    return x[:, :, None].expand(batch, n_kv_heads, groups, pos, d_head).reshape(batch, n_heads, pos, d_head)
