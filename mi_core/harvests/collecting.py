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

__all__ = ["Collector"]


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

    def collect(self, windows: Sequence[Window], tick: Callable[[int], None] = lambda _: None) -> dict[str, Tensor]:
        """The tensors of a shard: rows in the order of windows and positions, however they were run.

        ``tick`` is told, after each run, how many tokens it had.
        """
        lengths = torch.tensor([len(window.ids) for window in windows])
        reached = torch.tensor([row for row, window in enumerate(windows) if reaches(self.pos, len(window.ids))])
        batches = [reached[rows] for rows in row_chunks(lengths[reached], self.batch_tokens)] if len(reached) else []
        # the longest first: what does not fit into memory shows at once
        chunks = [self.chunk(rows, [windows[row] for row in rows.tolist()]) for rows in reversed(batches)]
        counts = torch.zeros(len(windows), dtype=torch.long)
        for chunk in chunks:
            counts[chunk.rows] = chunk.wanted.sum(1)
        begin = counts.cumsum(0) - counts
        total = int(counts.sum())
        position = torch.empty(total, dtype=torch.int32)
        stored = Placement("cpu", self.dtype)
        made: dict[str, Tensor] = {}

        def keep(number: int, called: Called) -> None:
            chunk = chunks[number]
            to = (begin[chunk.rows, None] + chunk.wanted.cumsum(1) - 1)[chunk.wanted]
            position[to] = chunk.index[chunk.wanted].int()
            for name, bound in chunk.plan.binding.after.items():
                value = every_dim(called.record.after[name], bound.selection)
                value = stored.put(value[chunk.wanted.to(value.device)])
                if name not in made:
                    made[name] = value.new_empty(total, *value.shape[1:])
                made[name][to] = value
            tick(int(chunk.plan.layout.length.sum()))

        self.run([chunk.plan for chunk in chunks], keep)
        made["row.window"] = torch.repeat_interleave(torch.arange(len(windows), dtype=torch.int32), counts)
        made["row.position"] = position
        return made | {f"window.{name}": value for name, value in vars(ShardWindows.of(windows)).items()}

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
