"""The calls of a generation: one over the prompts, then one for each column of new tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_core.binding import Binding
from mi_core.calling import check_fired, gather, taps_for
from mi_core.errors import MemoryMismatch
from mi_core.layout import Layout
from mi_core.loop import forward
from mi_core.memory import ModelMemory
from mi_core.protocols import Memory
from mi_core.stepping import Steps
from mi_core.taps import IDLE, Record
from mi_core.windows import Window

if TYPE_CHECKING:
    from mi_core.model import Model

__all__ = ["Writer", "called_once"]


class Writer:
    """The calls of a generation: which columns each covers, and what it remembers."""

    def __init__(
        self, model: Model, prompt: Layout, steps: Steps, cache: bool, before: ModelMemory | None = None
    ) -> None:
        self.model, self.prompt, self.steps, self.cache, self.before = model, prompt, steps, cache, before
        self.ids = [row[:length].tolist() for row, length in zip(prompt.ids, prompt.length, strict=True)]
        self.computed = [0] * len(self.ids)
        self.again: list[str] = []
        """Why rows were run again from their first token."""
        self._memory: Sequence[Memory] | None = None
        self._remembered: list[int] = []
        self._device = model.device
        last = prompt.positions[torch.arange(len(self.ids)), prompt.length - 1]
        self._ahead: list[int] = (last + 1 - prompt.length).tolist()

    def advance(self, rows: list[int], *, capture: bool) -> Float[Tensor, "rows d_vocab"]:
        """Run what is not computed yet of some rows; their logits at the last token."""
        if self.cache and self._memory is not None:
            try:
                return self._continued(rows, capture)
            except MemoryMismatch as mismatch:
                self.again.append(str(mismatch))
                self._memory = None
        every = list(range(len(self.ids))) if self.steps.needs_all_rows else rows
        logits = self._call(every, [0] * len(every), capture)
        if every != rows:
            logits = logits[torch.tensor(rows, device=logits.device)]
        return logits

    def end(self) -> None:
        """Nothing is run any more."""

    def _continued(self, rows: list[int], capture: bool) -> Tensor:
        """A call that goes on from what is remembered."""
        self._recall(rows)
        return self._call(rows, [self.computed[row] for row in rows], capture)

    def _recall(self, rows: list[int]) -> None:
        """Forget all rows but these."""
        if rows != self._remembered and self._memory is not None:
            place = {row: here for here, row in enumerate(self._remembered)}
            index = torch.tensor([place[row] for row in rows], device=self._device)
            self._memory = tuple(layer.rows(index) for layer in self._memory)
            self._remembered = rows

    def _call(self, rows: list[int], first: list[int], capture: bool) -> Tensor:
        layout, window = self._layout(rows, first)
        return self._run(rows, self.steps.bound(window, layout, capture=capture), window)

    def _run(self, rows: list[int], bound: Binding, window: Window) -> Tensor:
        anew = bound.layout.skipped is None
        logits, kept, after = called_once(
            self.model,
            bound,
            window.rows,
            memory=self._prefix(rows) if anew else self._memory,
            record="end" if self.cache else None,
        )
        self.steps.keep(kept, bound, window, anew=anew)
        if self.cache:
            self._memory, self._remembered = after, rows
        for row in rows:
            self.computed[row] = len(self.ids[row])
        return logits

    def _prefix(self, rows: list[int]) -> Sequence[Memory] | None:
        """What the rows go on from at their first token."""
        if self.before is None:
            return None
        every = len(rows) == len(self.ids)
        return self.before.layers if every else self.before.rows(torch.tensor(rows)).layers

    def _layout(self, rows: list[int], first: list[int]) -> tuple[Layout, Window]:
        """The columns of some rows from their own first on."""
        if all(begin and begin + 1 == len(self.ids[row]) for row, begin in zip(rows, first, strict=True)):
            return self._step(rows, first)
        own = [self.ids[row][begin:] for row, begin in zip(rows, first, strict=True)]
        length = torch.tensor([len(ids) for ids in own])
        width = int(length.max())
        ids = torch.tensor([row + [0] * (width - len(row)) for row in own])
        begin = torch.tensor(first)
        before = self.prompt.start[torch.tensor(rows)]
        positions = torch.stack([self.positions(row, begin, width) for row, begin in zip(rows, first, strict=True)])
        mask = torch.arange(width) < length[:, None]
        skipped = begin if any(first) else None
        layout = Layout(ids, length, positions, before + begin, None if bool(mask.all()) else mask, skipped)
        return layout, Window(torch.tensor(rows), begin, begin + length, before)

    def _step(self, rows: list[int], first: list[int]) -> tuple[Layout, Window]:
        """One new token of some rows: what :meth:`_layout` makes of it, with less ado."""
        numbers, begin = torch.tensor(rows), torch.tensor(first)
        ids = torch.tensor([self.ids[row][-1:] for row in rows])
        positions = torch.tensor([[at + self._ahead[row]] for row, at in zip(rows, first, strict=True)])
        before, one = self.prompt.start[numbers], torch.ones_like(begin)
        layout = Layout(ids, one, positions, before + begin, None, begin)
        return layout, Window(numbers, begin, begin + 1, before)

    def positions(self, row: int, first: int, width: int) -> Int[Tensor, "pos"]:
        """The position indexes of a row's columns: those of the prompt, and on from its last."""
        prompt = int(self.prompt.length[row])
        column = torch.arange(first, first + width)
        if first >= prompt:
            return column + self._ahead[row]
        given = self.prompt.positions[row, column.clamp(max=prompt - 1)]
        return torch.where(column < prompt, given, column + self._ahead[row])


def called_once(
    model: Model, bound: Binding, rows: Int[Tensor, "rows"], *, memory: Sequence[Memory] | None, record: str | None
) -> tuple[Float[Tensor, "rows d_vocab"], Record, Sequence[Memory]]:
    """One call: the logits at each row's last token, what was captured, and what is remembered behind it."""
    layout, kept = bound.layout, Record()
    taps = taps_for(bound, layout, rows, kept, model.device, False)
    outcome = forward(
        model.backend,
        layout.batch(model.device, record),
        taps,
        memory=memory,
        logits="last" if taps.outside is IDLE else "all",
    )
    check_fired(bound, kept)
    gather(bound, kept, model.device)
    logits = outcome.logits
    assert logits is not None
    if logits.shape[1] > 1:
        last = (layout.length - 1).to(logits.device)
        logits = logits[torch.arange(len(logits), device=logits.device), last][:, None]
    return logits[:, 0], kept, outcome.memory
