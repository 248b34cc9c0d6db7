"""Generations whose columns are replayed by graphs: which graph serves a column, and what it goes on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mi_core.binding import Binding
from mi_core.editing import Intervention
from mi_core.errors import MemoryMismatch
from mi_core.interventions import Noise
from mi_core.protocols import Memory
from mi_core.static_memory import Buffers, room_for, with_room
from mi_core.step_graph import Column, StepGraph, step_graph
from mi_core.taps import Record
from mi_core.traced import acting
from mi_core.tracing import NotAGraph
from mi_core.windows import Window
from mi_core.writer import Writer

if TYPE_CHECKING:
    from mi_core.model import Model

__all__ = ["CompiledWriter", "Decoding"]


class Decoding:
    """The graphs of a compiled spec, and why there is none; a graph serves one generation at a time."""

    def __init__(self, model: Model, options: Mapping[str, Any], refused: Callable[[str, str], None]) -> None:
        self.model, self.options, self.tell = model, options, refused
        self.graphs: list[StepGraph] = []
        self.idle: list[StepGraph] = []
        self.reasons: dict[Any, str] = {}

    def take(self, key: Any, memory: Sequence[Memory]) -> StepGraph | None:
        """A graph for a column, which goes on from the memory now."""
        for graph in self.idle:
            if graph.key == key and graph.buffers.load(memory):
                self.idle.remove(graph)
                return graph
        return None

    def make(
        self, pair: tuple[Column, Column], before: Sequence[Memory], between: Sequence[Memory], room: int
    ) -> StepGraph | None:
        """A graph for two columns, from what was remembered before them; it goes on from what is between them."""
        buffers = Buffers(before, room)
        if not buffers.load(between):  # the first column changed the kind: keys that a write tells apart, by head
            return None
        try:
            graph = step_graph(self.model, *pair, before, buffers, self.options)
        except (NotAGraph, MemoryMismatch) as error:
            self.refuse(pair[0].key, str(error))
            return None
        buffers.load(between)
        self.graphs.append(graph)
        return graph

    def refuse(self, key: Any, reason: str) -> None:
        """There is no graph for such columns; say so once."""
        known = reason in self.reasons.values()
        self.reasons[key] = reason
        if not known:
            self.tell("this generation", reason)

    def explain(self) -> list[str]:
        """A line for each graph, and for each reason."""
        lines = [
            f"a column of {len(graph.key[0])} row(s), room for {graph.buffers.room}: one graph of "
            f"{graph.traced.operations} operations, replayed {graph.columns} times"
            for graph in self.graphs
        ]
        return lines + [f"columns as they are: {reason}" for reason in dict.fromkeys(self.reasons.values())]


class CompiledWriter(Writer):
    """The calls of a generation, of which columns are replayed where two in succession do the same.

    Rows that have ended stay in the buffers: they repeat their last token, and nobody looks at what comes of it.
    """

    def __init__(self, decoding: Decoding, *writer: Any) -> None:
        super().__init__(*writer)
        self.decoding = decoding
        self._room = -1
        """0 where there can be none; not known yet below."""
        self._held: list[StepGraph] = []
        self._graph: StepGraph | None = None
        """Whose buffers hold what is remembered."""
        self._last: tuple[Column, Sequence[Memory]] | None = None
        """The column before, if it ran as it is, and what it went on from."""
        self._acting: tuple[Binding, Any] | None = None

    def end(self) -> None:
        """Others may use the graphs."""
        self.decoding.idle += self._held
        self._held, self._graph = [], None

    def _continued(self, rows: list[int], capture: bool) -> Tensor:
        if not self._has_room():
            return super()._continued(rows, capture)
        column = self._column(self._remembered if self._graph is not None else rows, capture)
        graph = self._graph_of(column)
        if graph is not None:
            return self._replayed(graph, column, rows)
        column = self._column(rows, capture)
        self._recall(rows)
        before, self._graph, self._last = self._memory, None, None
        assert before is not None
        try:
            logits = self._run(rows, column.bound, column.window)
        except MemoryMismatch as mismatch:
            self.decoding.refuse(column.key, str(mismatch))
            raise
        if column.key not in self.decoding.reasons:
            self._last = (column, before)
        return logits

    def _has_room(self) -> bool:
        """Whether memories can be of fixed size; of which, is decided at the first column."""
        if self._room < 0 and self._memory is not None:
            whole = self.steps.binding.layout
            room = room_for(int((whole.start + whole.length).max()))
            try:
                # what does not grow needs no room: one graph serves all lengths
                grows = any(with_room(layer, room) is not layer for layer in self._memory)
                self._room = room if grows else 1
            except NotAGraph as reason:
                self._room = 0
                self.decoding.refuse("memory", str(reason))
        return self._room > 0

    def _column(self, rows: list[int], capture: bool) -> Column:
        layout, window = self._layout(rows, [len(self.ids[row]) - 1 for row in rows])
        bound = self.steps.bound(window, layout, capture=capture)
        return Column((tuple(rows), len(self.ids), self._room, self._acting_in(bound)), window, bound)

    def _acting_in(self, bound: Binding) -> Any:
        """What acts, as a part of a key; that of the column before, where it is the same."""
        known = self._acting
        if known is None or known[0].steps is not bound.steps or known[0].after is not bound.after:
            noisy = tuple(self.prompt.start.tolist()) if any(map(counts_columns, bound.edits())) else ()
            known = self._acting = (bound, (acting(bound), noisy))
        return known[1]

    def _graph_of(self, column: Column) -> StepGraph | None:
        """The graph of a column, with what is remembered in its buffers; None if the column runs as it is."""
        memory, key = self._memory, column.key
        assert memory is not None
        if self._graph is not None and self._graph.key == key:
            return self._graph
        if key in self.decoding.reasons:
            return None
        found = next((held for held in self._held if held.key == key and held.buffers.load(memory)), None)
        if found is None:
            found = self.decoding.take(key, memory)
            if found is None and self._last is not None and self._last[0].key == key:
                found = self.decoding.make((self._last[0], column), self._last[1], memory, self._room)
            if found is not None:
                self._held.append(found)
        if found is not None:
            self._graph, self._memory, self._last = found, found.buffers.layers, None
            self._remembered = list(key[0])
        return found

    def _replayed(self, graph: StepGraph, column: Column, rows: list[int]) -> Tensor:
        called = graph.replay(column, self._device)
        window, bound = column.window, column.bound
        logits = called.logits
        assert logits is not None
        record = called.record
        if rows != self._remembered:
            index = torch.tensor([self._remembered.index(row) for row in rows])
            logits = logits[index.to(logits.device)]
            window = Window(*(part[index] for part in (window.rows, window.first, window.stop, window.before)))
            bound, record = of_rows(bound, record, index)
        self.steps.keep(record, bound, window, anew=False)
        for row in rows:
            self.computed[row] = len(self.ids[row])
        return logits


def counts_columns(edit: Intervention) -> bool:
    """Whether what an edit does depends on where its column is."""
    return isinstance(edit, Noise)


def of_rows(bound: Binding, record: Record, index: Tensor) -> tuple[Binding, Record]:
    """Captures of some of the rows of a call."""
    kept, some = replace(bound, after={}, before={}), Record(fired=record.fired)
    pairs = (
        (bound.after, kept.after, record.after, some.after),
        (bound.before, kept.before, record.before, some.before),
    )
    for asked, asked_of_some, values, values_of_some in pairs:
        for name, capture in asked.items():
            selection = capture.selection.rows(index)
            if selection.empty:
                continue
            batch, wanted = capture.selection.choices.get("batch"), index.tolist()
            here = wanted if batch is None else [at for at, row in enumerate(batch.index.tolist()) if row in wanted]
            asked_of_some[name] = replace(capture, selection=selection)
            values_of_some[name] = values[name][torch.tensor(here, device=values[name].device)]
    return kept, some
