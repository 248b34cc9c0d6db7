"""The activations of some windows: which rows they give, and the model's runs that fill them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mi_core.abreast import abreast, alone, comes_and_goes, parking
from mi_core.calling import Called, row_chunks, staged_call
from mi_core.harvests.shards import ShardWindows
from mi_core.harvests.windows import Window
from mi_core.model import Model
from mi_core.placing import Placement
from mi_core.plans import Plan
from mi_core.selection import Selection
from mi_core.selectors import Selector
from mi_core.spec import HookSpec

__all__ = ["Collector", "Making", "padding_in"]


@dataclass(frozen=True, eq=False)
class Collector:
    """How activations are collected."""

    model: Model
    spec: HookSpec
    batch_tokens: int
    pos: Selector | None = None
    """Which positions the spec keeps."""
    without: int | None = None
    """A token that is left out where a window begins with it."""
    dtype: str | None = None
    """What floating-point numbers are stored as; None leaves them as they were computed."""

    def collect(self, shards: Sequence[Making]) -> list[dict[str, Tensor]]:
        """The tensors of some shards; weights that come and go come once for all of them."""
        runs = [(shard, number) for shard in shards for number in range(len(shard.chunks))]

        def keep(index: int, called: Called) -> None:
            shard, number = runs[index]
            shard.keep(number, called)

        self.run([shard.chunks[number].plan for shard, number in runs], keep)
        return [shard.tensors() for shard in shards]

    def making(self, windows: Sequence[Window], tick: Callable[[int], None] = lambda _: None) -> Making:
        """A shard that is to be made of some windows; ``tick`` is told of each of its runs how many tokens it had."""
        lengths = torch.tensor([len(window.ids) for window in windows])
        reached = torch.tensor([row for row, window in enumerate(windows) if reaches(self.pos, len(window.ids))])
        batches = row_chunks(lengths[reached], self.batch_tokens, padding_in(self.batch_tokens)) if len(reached) else []
        # the longest first: what does not fit into memory shows at once
        chosen = [reached[rows] for rows in reversed(batches)]
        chunks = [self.chunk(rows, [windows[row] for row in rows.tolist()]) for rows in chosen]
        return Making(windows, chunks, Placement("cpu", self.dtype), tick)

    def run(self, plans: Sequence[Plan], keep: Callable[[int, Called], None]) -> None:
        """Carry plans out one after the other; side by side, layer by layer, where weights come and go."""
        backend, device = self.model.backend, self.model.device
        together = comes_and_goes(backend)
        runs = [
            staged_call(
                plan.binding,
                backend,
                device,
                last_layer=plan.last_layer,
                logits=plan.unembedded,
                parked=parking(backend) if together else None,
            )
            for plan in plans
        ]
        with torch.no_grad():
            if together:
                abreast(backend, runs, keep)
            else:
                for number, run in enumerate(runs):
                    keep(number, alone(run))

    def chunk(self, rows: Int[Tensor, "row"], windows: Sequence[Window]) -> Chunk:
        """Some windows as one call, planned."""
        plan = self.model.plan([list(window.ids) for window in windows], self.spec, logits=None)
        kept = next(iter(plan.binding.after.values()))
        choice = kept.selection.choices.get("pos")
        if choice is None:
            index = torch.arange(plan.layout.width).expand(len(windows), -1)
            present = plan.layout.real("pos")
        else:
            index = choice.index if choice.per_row else choice.index.expand(len(windows), -1)
            present = torch.ones_like(index, dtype=torch.bool) if choice.present is None else choice.present
        wanted = present & (index >= torch.tensor([window.fresh for window in windows])[:, None])
        if self.without is not None:
            left_out = torch.tensor([window.ids[0] == self.without for window in windows])
            wanted &= ~(left_out[:, None] & (index == 0))
        return Chunk(rows, plan, index, wanted)


@dataclass(frozen=True, eq=False)
class Chunk:
    """Windows of like length, that are run together."""

    rows: Int[Tensor, "row"]
    """Which of the shard's windows they are."""
    plan: Plan
    index: Int[Tensor, "row n"]
    """The positions that are captured."""
    wanted: Bool[Tensor, "row n"]
    """Which of these are kept."""


class Making:
    """A shard in the making: rows in the order of windows and positions, however they are run."""

    def __init__(
        self, windows: Sequence[Window], chunks: Sequence[Chunk], stored: Placement, tick: Callable[[int], None]
    ) -> None:
        self.windows, self.chunks, self.stored, self.tick = windows, chunks, stored, tick
        self.counts = torch.zeros(len(windows), dtype=torch.long)
        for chunk in chunks:
            self.counts[chunk.rows] = chunk.wanted.sum(1)
        self.begin = self.counts.cumsum(0) - self.counts
        self.total = int(self.counts.sum())
        self.position = torch.empty(self.total, dtype=torch.int32)
        self.made: dict[str, Tensor] = {}

    def keep(self, number: int, called: Called) -> None:
        """Take the rows that are wanted of a run that is done."""
        chunk = self.chunks[number]
        to = (self.begin[chunk.rows, None] + chunk.wanted.cumsum(1) - 1)[chunk.wanted]
        self.position[to] = chunk.index[chunk.wanted].int()
        for name, bound in chunk.plan.binding.after.items():
            value = every_dim(called.record.after[name], bound.selection)
            value = self.stored.put(value[chunk.wanted.to(value.device)])
            if name not in self.made:
                self.made[name] = value.new_empty(self.total, *value.shape[1:])
            self.made[name][to] = value
        self.tick(int(chunk.plan.layout.length.sum()))

    def tensors(self) -> dict[str, Tensor]:
        """What a shard's file holds."""
        windows = {f"window.{name}": value for name, value in vars(ShardWindows.of(self.windows)).items()}
        numbers = torch.arange(len(self.windows), dtype=torch.int32)
        rows = {"row.window": torch.repeat_interleave(numbers, self.counts), "row.position": self.position}
        return {**self.made, **rows, **windows}


def padding_in(tokens: int) -> int:
    """Columns of padding that a run may have: about what one more run costs, whose weights are read once more."""
    return tokens // 16


def reaches(pos: Selector | None, length: int) -> bool:
    """Whether a selector may keep something of so many tokens; a slice of what lies behind them does not.

    >>> reaches(slice(5, None), 5), reaches(slice(5, None), 6)
    (False, True)
    """
    return not isinstance(pos, slice) or bool(range(length)[pos])


def every_dim(value: Tensor, selection: Selection) -> Tensor:
    """What was captured ``[batch pos ...]``; other dims that were selected by an int are dropped."""
    choice = selection.choices.get("pos")
    return value.unsqueeze(1) if choice is not None and choice.drop else value
