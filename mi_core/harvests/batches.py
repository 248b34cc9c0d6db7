"""Rows of a harvest for training: datasets of PyTorch, shuffled without being loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from mi_core.errors import InputError

if TYPE_CHECKING:
    from mi_core.harvests.reading import Harvest

__all__ = ["HarvestBatches", "HarvestRows"]

Batch: TypeAlias = Tensor | dict[str, Tensor]


class HarvestRows(Dataset[dict[str, Any]]):
    """One row at a time: its activations by point, ``token``, ``position`` and ``document``."""

    def __init__(self, harvest: Harvest, points: tuple[str, ...]) -> None:
        self.harvest = harvest
        self.points = points

    def __len__(self) -> int:
        return self.harvest.rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Every row, in order."""
        return (self[row] for row in range(len(self)))

    def __getitem__(self, row: int) -> dict[str, Any]:
        """One row."""
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Some rows, read together; a `DataLoader` asks for its batches so."""
        numbers = torch.as_tensor(rows, dtype=torch.long)
        values = [self.harvest[point].take(numbers) for point in self.points]
        token, position, document = (torch.empty_like(numbers) for _ in range(3))
        for shard, here, local in self.harvest.by_shard(numbers):
            windows, window = shard.windows, shard["row.window"][local]
            position[here] = shard["row.position"][local].long()
            token[here] = windows.tokens[windows.offsets[window] + position[here]].long()
            document[here] = windows.document[window]
        own = zip(token.tolist(), position.tolist(), document.tolist(), strict=True)
        return [
            {**dict(zip(self.points, row, strict=True)), "token": t, "position": p, "document": d}
            for *row, (t, p, d) in zip(*values, own, strict=True)
        ]


@dataclass(eq=False)
class HarvestBatches(IterableDataset[Batch]):
    """Whole batches of rows, in an order that depends on seed and epoch alone."""

    harvest: Harvest
    points: tuple[str, ...]
    batch_size: int
    shuffle: bool
    seed: int
    mixed: int
    drop_last: bool
    part: tuple[int, int]
    single: str | None
    epoch: int = 0

    def __post_init__(self) -> None:
        index, count = self.part
        if self.batch_size < 1 or self.mixed < 1 or not 0 <= index < count:
            raise InputError(
                f"batch_size={self.batch_size}, mixed={self.mixed}, part={self.part}: sizes are at least 1, and part "
                "is (i, n) with i from 0 to n - 1."
            )

    def __len__(self) -> int:
        """How many batches all workers give together."""
        rows, (index, count) = self.harvest.rows, self.part
        whole = rows // self.batch_size if self.drop_last else -(-rows // self.batch_size)
        return max(0, -(-(whole - index) // count))

    def set_epoch(self, epoch: int) -> None:
        """Another order for another epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        """The batches of this process, or of this worker of a `DataLoader`."""
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        index, count = self.part
        for number, rows in enumerate(self.orders()):
            turn, own = divmod(number - index, count)
            if own == 0 and turn % workers == worker:
                taken = {point: self.harvest[point].take(rows) for point in self.points}
                yield taken if self.single is None else taken[self.single]

    def orders(self) -> Iterator[Int[Tensor, "row"]]:
        """The rows of every batch."""
        left = torch.empty(0, dtype=torch.long)
        for rows in self.groups():
            left = torch.cat((left, rows))
            *whole, left = torch.split(left, self.batch_size) if len(left) else (left,)
            if len(left) == self.batch_size:
                whole, left = [*whole, left], left[:0]
            yield from whole
        if len(left) and not self.drop_last:
            yield left

    def groups(self) -> Iterator[Int[Tensor, "row"]]:
        """The rows of some shards at a time, mixed with each other."""
        offsets = self.harvest.offsets
        shards = torch.arange(len(offsets) - 1)
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        if self.shuffle:
            shards = shards[torch.randperm(len(shards), generator=draw)]
        for group in torch.split(shards, self.mixed) if len(shards) else ():
            rows = torch.cat([torch.arange(offsets[number], offsets[number + 1]) for number in group.tolist()])
            yield rows[torch.randperm(len(rows), generator=draw)] if self.shuffle else rows
