"""One column of a generation as a graph that serves every column in which a spec does the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from mi_core.binding import Binding, BoundCapture
from mi_core.calling import Called
from mi_core.interventions import Noise
from mi_core.layout import Layout
from mi_core.placing import AS_COMPUTED
from mi_core.protocols import Memory
from mi_core.static_memory import Buffers
from mi_core.taps import Record
from mi_core.traced import Traced, called_of, named, operations_of, others
from mi_core.tracing import NotAGraph, graph_of
from mi_core.windows import Window
from mi_core.writer import called_once

if TYPE_CHECKING:
    from mi_core.model import Model

__all__ = ["Column", "StepGraph", "step_graph"]


@dataclass(frozen=True, eq=False)
class Column:
    """One new token of some rows: what a call covers, what acts in it, and what it goes on from."""

    key: Any
    """Equal for columns that one graph can serve."""
    window: Window
    bound: Binding

    @property
    def layout(self) -> Layout:
        """The tokens and their places."""
        return self.bound.layout

    @property
    def n_keys(self) -> int:
        """Keys of the longest row."""
        return int((self.layout.start + self.layout.length).max())


@dataclass(eq=False)
class StepGraph:
    """A graph, the memory that it goes on from, and how often it was replayed."""

    key: Any
    traced: Traced
    buffers: Buffers
    columns: int = 0

    def replay(self, column: Column, device: torch.device) -> Called:
        """Run a column behind what the buffers hold."""
        assert self.traced.call is not None
        called = called_of(self.traced, self.traced.call(place_of(column.layout).to(device)))
        self.columns += 1
        return replace(called, record=placed(called.record, column))


def place_of(layout: Layout) -> Int[Tensor, "4 batch"]:
    """What differs between the columns that a graph serves, as one tensor: token, position, start, number of column."""
    assert layout.skipped is not None
    return torch.stack((layout.ids[:, 0], layout.positions[:, 0], layout.start, layout.skipped))


def step_graph(
    model: Model,
    column: Column,
    following: Column,
    memory: Sequence[Memory],
    buffers: Buffers,
    options: Mapping[str, Any],
) -> StepGraph:
    """Trace a column behind a memory, hold the graph against it and the column that follows, and compile it.

    The graph goes on from the ``buffers``, which hold nothing of worth yet.

    Raises:
        NotAGraph: why it is none, or that it does not give what the calls give.
    """
    refuse(column.bound, model.device)
    buffers.load(memory)
    own = {tensor.untyped_storage().data_ptr() for tensor in buffers.tensors}
    bound = as_computed(column.bound)
    length = column.layout.length.to(model.device)
    names: list[tuple[str, str]] = []
    fired: set[str] = set()

    def step(place: Int[Tensor, "4 batch"]) -> list[Tensor]:
        ids, positions, start, skipped = place.unbind()
        layout = Layout(ids[:, None], length, positions[:, None], start, None, skipped, room=buffers.room)
        acting = replace(bound, layout=layout)
        logits, kept, after = called_once(model, acting, column.window.rows, memory=buffers.layers, record="end")
        found = named(logits, kept)
        # the next column writes where a view of what is remembered would look
        values = [value.clone() if value.untyped_storage().data_ptr() in own else value for value in found.values()]
        buffers.keep(after)
        names[:] = found
        fired.update(kept.fired)
        return values

    graph = graph_of(step, place_of(column.layout).to(model.device), own=buffers.tensors)
    traced = Traced(graph, tuple(names), frozenset(fired), operations_of(graph))
    check(model, StepGraph(column.key, traced, buffers), (column, following), memory)
    compiled = torch.compile(graph, fullgraph=True, dynamic=False, **options)
    return StepGraph(column.key, replace(traced, call=compiled), buffers)


def refuse(bound: Binding, device: torch.device) -> None:
    """Refuse what is not even traced."""
    if bound.holds_functions:
        raise NotAGraph("a function that is applied may do anything")
    if device.type != "cpu" and any(isinstance(edit, Noise) for edit in bound.edits()):
        raise NotAGraph("noise is drawn on the host, by the number of the column")


def as_computed(bound: Binding) -> Binding:
    """The same with captures left where they are computed: what the graph returns goes elsewhere behind it."""

    def bare(kept: Mapping[str, BoundCapture]) -> dict[str, BoundCapture]:
        return {name: replace(capture, placement=AS_COMPUTED) for name, capture in kept.items()}

    return replace(bound, after=bare(bound.after), before=bare(bound.before))


def placed(record: Record, column: Column) -> Record:
    """Captures without the keys that are not there yet, where the spec wants them."""
    bound = column.bound

    def put(values: Mapping[str, Tensor], kept: Mapping[str, BoundCapture]) -> dict[str, Tensor]:
        return {
            name: kept[name].placement.put(without_later_keys(value, kept[name], column))
            for name, value in values.items()
        }

    return Record(put(record.after, bound.after), put(record.before, bound.before), fired=record.fired)


def without_later_keys(value: Tensor, capture: BoundCapture, column: Column) -> Tensor:
    """A capture up to the last key of the longest row."""
    selection = capture.selection
    if "key_pos" not in selection.dims or "key_pos" in selection.choices:
        return value
    return value.narrow(selection.dims.index("key_pos"), 0, column.n_keys)


def check(model: Model, graph: StepGraph, columns: Sequence[Column], memory: Sequence[Memory]) -> None:
    """Hold a graph against the calls that it replaces: columns one behind another, with other tokens.

    Raises:
        NotAGraph: it gives something else, by more than rounding.
    """
    with torch.no_grad():
        graph.buffers.load(memory)
        for column in columns:
            layout = replace(column.layout, ids=others(column.layout.ids, model.shape))
            column = replace(column, bound=replace(column.bound, layout=layout))
            logits, kept, memory = called_once(model, column.bound, column.window.rows, memory=memory, record="end")
            called = graph.replay(column, model.device)
            seen, wanted = named(called.logits, called.record), named(logits, kept)
            for (_, name), value in wanted.items():
                if not alike(seen[_, name], value):
                    raise NotAGraph(f"its graph gives other {name or 'logits'} than its call for other tokens")


def alike(seen: Tensor, wanted: Tensor) -> bool:
    """Whether two values are the same but for the rounding of sums over more keys."""
    if seen.shape != wanted.shape or seen.dtype != wanted.dtype:
        return False
    if not wanted.is_floating_point():
        return torch.equal(seen, wanted)
    both = seen.isfinite() & wanted.isfinite()
    largest = torch.where(both, wanted, 0.0).abs().max() if wanted.numel() else 0.0
    near = (seen - wanted).abs() <= largest * torch.finfo(wanted.dtype).eps ** 0.5
    return bool((near | (seen == wanted) | (seen.isnan() & wanted.isnan())).all())
