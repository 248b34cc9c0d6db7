"""A harvest read back: activations by point, with the token, position and document of every row.

Nothing is loaded before it is asked for, and then only the pages that hold it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_core.errors import CorruptShard, MissingActivation, SelectorError
from mi_core.harvests.folder import numbered, read_index
from mi_core.harvests.points import HarvestedPoint
from mi_core.harvests.shards import Shard
from mi_core.tokenizer import Tokenizer

if TYPE_CHECKING:
    from mi_core.harvests.batches import HarvestBatches, HarvestRows

__all__ = ["Context", "Harvest", "Top"]


@dataclass(frozen=True)
class Context:
    """The tokens around a row's token, in the window that the model read."""

    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    """Their texts; ``<17>`` without a tokenizer."""
    at: int
    """Which of them is the row's own."""
    document: int
    position: int

    def __str__(self) -> str:
        own = f"[{self.tokens[self.at]}]"
        return "".join((*self.tokens[: self.at], own, *self.tokens[self.at + 1 :]))


@dataclass(frozen=True)
class Top:
    """The rows with the highest scores, highest first."""

    scores: Float[Tensor, "k"]
    rows: Int[Tensor, "k"]


class Harvest(Mapping[str, HarvestedPoint]):
    """What `mi_core.harvest` wrote; a mapping from points to activations ``[row ...]``.

    ``harvest["blocks.3.hook_resid_post"][rows]`` reads rows, ``harvest.documents`` says which document each is of. An
    unfinished harvest has the whole shards that are there.

    Raises:
        HarvestError: no harvest in the folder.
    """

    def __init__(self, folder: str | PathLike[str], *, tokenizer: Tokenizer | None = None) -> None:
        self.folder = Path(folder)
        self.tokenizer = tokenizer
        self.index = read_index(self.folder)
        self._lost: dict[str, CorruptShard] = {}
        self._files = self._listed()
        self._opened: dict[int, Shard] = {}

    def __repr__(self) -> str:
        state = "" if self.complete else ", unfinished"
        return f"Harvest({str(self.folder)!r}, {self.rows:,} rows of {len(self)} points{state})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}  # a worker maps the files itself

    def _listed(self) -> list[tuple[Path, int]]:
        """The shards that the index lists, or those that are there; and how many rows each has."""
        if self.complete:
            return [(self.folder / shard["file"], shard["rows"]) for shard in self.index["shards"]]
        found = []
        for _, path in numbered(self.folder):
            try:
                found.append((path, Shard.open(path).rows))
            except CorruptShard as error:
                self._lost[path.name] = error
        return found

    @property
    def complete(self) -> bool:
        """Whether it was finished."""
        return bool(self.index["complete"])

    @property
    def files(self) -> list[Path]:
        """The files of the shards, in order."""
        return [path for path, _ in self._files]

    def show(self, *, thorough: bool = False) -> None:
        """Print what it is of: rows, points, model, data and settings; and which shards cannot be read.

        ``thorough`` reads every byte to find what is hurt.
        """
        from mi_core.harvests.showing import as_text, full_topics

        print(as_text(full_topics(self, thorough=thorough)))

    # -- points ------------------------------------------------------------------------------------

    @property
    def points(self) -> tuple[str, ...]:
        """The points, in the model's order."""
        return tuple(self.index["dims"])

    def __iter__(self) -> Iterator[str]:
        return iter(self.points)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, point: str) -> HarvestedPoint:
        if point not in self.index["dims"]:
            raise MissingActivation(
                f"{str(self.folder)!r} has no {point!r}; it has {', '.join(self.points)}.", point=point
            )
        return HarvestedPoint(self, point)

    # -- rows --------------------------------------------------------------------------------------

    @cached_property
    def offsets(self) -> list[int]:
        """The row at which each shard begins, and the number of rows behind the last."""
        return list(accumulate((rows for _, rows in self._files), initial=0))

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.offsets[-1]

    @property
    def documents(self) -> Int[Tensor, "row"]:
        """Of each row, the number of its document in the corpus."""
        return self._joined(lambda shard: shard.documents)

    @property
    def positions(self) -> Int[Tensor, "row"]:
        """Of each row, its position in the window that the model read."""
        return self._joined(lambda shard: shard.positions)

    @property
    def places(self) -> Int[Tensor, "row"]:
        """Of each row, its place among the tokens of its document."""
        return self._joined(lambda shard: shard.places)

    @property
    def tokens(self) -> Int[Tensor, "row"]:
        """Of each row, its token."""
        return self._joined(lambda shard: shard.ids)

    def _joined(self, part: Callable[[Shard], Tensor]) -> Tensor:
        parts = [part(shard) for shard in self.shards()]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.long)

    def context(self, row: int, before: int = 20, after: int = 10) -> Context:
        """The tokens around a row's token."""
        number, local = self.place_of(row)
        shard = self.shard(number)
        ids, position = shard.window_of(local)
        start = max(0, position - before)
        shown = ids[start : position + after + 1].tolist()
        reader = self.tokenizer
        texts = (f"<{token}>" if reader is None else reader.text(token) for token in shown)
        document = int(shard.documents[local])
        return Context(tuple(shown), tuple(texts), position - start, document, position)

    def top(self, score: Callable[[dict[str, Tensor]], Tensor], k: int = 10, *, points: Sequence[str] = ()) -> Top:
        """The rows with the highest scores, found shard by shard.

        ``score`` is called with the activations of a part of the rows, by point, and returns a number for each row.
        """
        best = Top(torch.empty(0), torch.empty(0, dtype=torch.long))
        for number, begin in enumerate(self.offsets[:-1]):
            if self.offsets[number + 1] == begin:
                continue
            shard = self.shard(number)
            scores = score({point: shard[point] for point in points or self.points}).float()
            rows = torch.arange(begin, begin + len(scores))
            scores, rows = torch.cat((best.scores, scores)), torch.cat((best.rows, rows))
            kept = torch.topk(scores, min(k, len(scores)))
            best = Top(kept.values, rows[kept.indices])
        return best

    # -- shards ------------------------------------------------------------------------------------

    def shard(self, number: int) -> Shard:
        """One shard.

        Raises:
            CorruptShard: it is missing, truncated, or not what the index says; the others can be read.
        """
        if number not in self._opened:
            path, rows = self._files[number]
            shard = Shard.open(path)
            if shard.rows != rows:
                raise CorruptShard(f"the shard {str(path)!r} has {shard.rows} rows, not {rows}.", path=path)
            self._opened[number] = shard
        return self._opened[number]

    def shards(self) -> Iterator[Shard]:
        """Every shard, in order."""
        return (self.shard(number) for number in range(len(self._files)))

    def place_of(self, row: int) -> tuple[int, int]:
        """The shard that has a row, and the row's place in it."""
        if not -self.rows <= row < self.rows:
            raise SelectorError(f"row {row} is out of range: the harvest has {self.rows}.", row=row)
        row %= self.rows
        number = bisect_right(self.offsets, row) - 1
        return number, row - self.offsets[number]

    def by_shard(self, rows: Int[Tensor, "row"]) -> Iterator[tuple[Shard, Int[Tensor, "here"], Int[Tensor, "here"]]]:
        """Rows by their numbers, shard by shard: the shard, which of the rows it has, and their places in it."""
        for row in (rows.min(), rows.max()) if len(rows) else ():
            self.place_of(int(row))
        rows = rows % max(self.rows, 1)
        offsets = torch.tensor(self.offsets)
        where = torch.searchsorted(offsets, rows, right=True) - 1
        for number in sorted(set(where.tolist())):
            here = (where == number).nonzero()[:, 0]
            yield self.shard(number), here, rows[here] - offsets[number]

    def problems(self, *, thorough: bool = False) -> dict[str, CorruptShard]:
        """The shards that cannot be read, by file; ``thorough`` reads every byte and compares checksums."""
        found = dict(self._lost)
        for number, (path, _) in enumerate(self._files):
            try:
                shard = self.shard(number)
                if thorough:
                    shard.verify()
            except CorruptShard as error:
                found[path.name] = error
        return found

    def sound(self, *, thorough: bool = False) -> Harvest:
        """The same harvest without the shards that cannot be read; its rows are counted anew."""
        bad = self.problems(thorough=thorough)
        left = Harvest(self.folder, tokenizer=self.tokenizer)
        left._files = [(path, rows) for path, rows in self._files if path.name not in bad]
        return left

    # -- for training ------------------------------------------------------------------------------

    def dataset(self, points: str | Sequence[str] | None = None) -> HarvestRows:
        """The rows as a map-style `torch.utils.data.Dataset`."""
        from mi_core.harvests.batches import HarvestRows

        return HarvestRows(self, self._some(points))

    def batches(
        self,
        points: str | Sequence[str] | None = None,
        batch_size: int = 4096,
        *,
        shuffle: bool = True,
        seed: int = 0,
        mixed: int = 8,
        drop_last: bool = True,
        part: tuple[int, int] = (0, 1),
    ) -> HarvestBatches:
        """Batches of rows as an iterable `torch.utils.data.Dataset`, for `DataLoader(..., batch_size=None)`.

        Their order is that of the seed, whatever the number of workers.

        Args:
            points: a point for tensors ``[batch ...]``; several (None: all) for mappings from points to them.
            batch_size: rows of a batch.
            shuffle: mix the rows.
            seed: of the order; ``set_epoch`` gives another one for each epoch.
            mixed: shards, drawn at random, whose rows are mixed with each other.
            drop_last: leave out what is left at the end.
            part: ``(i, n)``: every n-th batch from the i-th on, for n processes that train together.
        """
        from mi_core.harvests.batches import HarvestBatches

        single = points if isinstance(points, str) else None
        return HarvestBatches(self, self._some(points), batch_size, shuffle, seed, mixed, drop_last, part, single)

    def _some(self, points: str | Sequence[str] | None) -> tuple[str, ...]:
        chosen = self.points if points is None else (points,) if isinstance(points, str) else tuple(points)
        return tuple(self[point].name for point in chosen)
