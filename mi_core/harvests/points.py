"""The activations of one point of a harvest, over all its shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mi_core.errors import SelectorError

if TYPE_CHECKING:
    from mi_core.harvests.reading import Harvest

__all__ = ["HarvestedPoint"]

Rows: TypeAlias = int | slice | Sequence[int] | Tensor


@dataclass(frozen=True, eq=False, repr=False)
class HarvestedPoint:
    """The activations of one point ``[row ...]``, read as they are asked for."""

    harvest: Harvest
    name: str

    def __repr__(self) -> str:
        return f"HarvestedPoint({self.name!r}, {list(self.shape)}, {str(self.dtype).removeprefix('torch.')})"

    def __len__(self) -> int:
        return self.harvest.rows

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the dims."""
        return ("row", *self.harvest.index["dims"][self.name])

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows, and the sizes of a row."""
        return (len(self), *self.harvest.index["dims"][self.name].values())

    @property
    def dtype(self) -> torch.dtype:
        """What they are stored as."""
        first = next(self.shards(), None)
        return torch.float32 if first is None else first.dtype

    def shards(self) -> Iterator[Tensor]:
        """The rows of each shard that has any ``[row ...]``, as views of the file's pages; treat them as read-only."""
        return (shard[self.name] for shard in self.harvest.shards() if shard.rows)

    def __iter__(self) -> Iterator[Tensor]:
        """One row after the other."""
        return (row for shard in self.shards() for row in shard)

    def __getitem__(self, rows: Rows) -> Tensor:
        """Some rows: an int gives one row ``[...]``; a slice, ints or a tensor of ints or bools ``[row ...]``.

        Raises:
            SelectorError: a row that there is not, or what names no rows.
        """
        if isinstance(rows, slice):
            counted = range(len(self))[rows]
            return self.take(torch.arange(len(counted)) * counted.step + counted.start)
        rows = row_numbers(rows)
        if rows.ndim == 0:
            number, local = self.harvest.place_of(int(rows))
            return self.harvest.shard(number)[self.name][local]
        if rows.dtype != torch.bool:
            return self.take(rows)
        if len(rows) != len(self):
            raise SelectorError(
                f"the mask has {len(rows)} entries, {self.name!r} has {len(self)} rows.", point=self.name
            )
        return self.take(rows.nonzero()[:, 0])

    def take(self, rows: Int[Tensor, "row"]) -> Tensor:
        """Some rows by their numbers, in that order."""
        made = torch.empty(len(rows), *self.shape[1:], dtype=self.dtype)
        if not len(rows):
            return made
        to = whole_rows(made)
        for shard, here, local in self.harvest.by_shard(rows):
            to[here.numpy()] = whole_rows(shard[self.name])[local.numpy()]
        return made


def whole_rows(values: Tensor) -> np.ndarray[Any, Any]:
    """The rows of a tensor as items of as many bytes, which numpy copies faster than torch its numbers."""
    raw = values.reshape(len(values), -1).view(torch.uint8).numpy()
    items: np.ndarray[Any, Any] = raw.view(np.dtype((np.void, raw.shape[1])))[:, 0]
    return items


def row_numbers(rows: Any) -> Tensor:
    """What was given as the numbers of rows, or a mask of them.

    Raises:
        SelectorError: it is nothing of the kind.
    """
    found: Tensor | None = None
    with suppress(TypeError, ValueError, RuntimeError):
        found = torch.as_tensor(rows)
    if found is not None and len(found.shape) < 2 and not found.numel():
        found = found.long()
    if found is None or found.ndim > 1 or found.is_floating_point() or (found.ndim == 0 and found.dtype == torch.bool):
        raise SelectorError(f"{rows!r:.80} names no rows: give an int, a slice, or ints or bools in a row.", rows=rows)
    return found
