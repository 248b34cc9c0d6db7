"""What a traced call is: its graph, and the names of what the graph returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mi_core.binding import Binding
from mi_core.calling import Called
from mi_core.protocols import ModelShape
from mi_core.selection import Selection
from mi_core.taps import Record

__all__ = ["Traced", "acting", "called_of", "named", "operations_of", "others"]


@dataclass(frozen=True, eq=False)
class Traced:
    """The graph of a call and what its outputs are, or the reason why there is none."""

    call: Callable[..., Sequence[Tensor]] | None
    names: tuple[tuple[str, str], ...] = ()
    """Of each output: ``("logits", "")``, or ``"after"`` / ``"before"`` and the point."""
    fired: frozenset[str] = frozenset()
    operations: int = 0
    reason: str = ""


def named(logits: Tensor | None, record: Record) -> dict[tuple[str, str], Tensor]:
    """What a call brought back, by the names of a graph's outputs."""
    found = {} if logits is None else {("logits", ""): logits}
    found |= {("after", name): value for name, value in record.after.items()}
    return found | {("before", name): value for name, value in record.before.items()}


def called_of(traced: Traced, outputs: Sequence[Tensor]) -> Called:
    """What a call brought back, from the graph's outputs; none of them is written by its next call."""
    record = Record(fired=set(traced.fired))
    logits = None
    for (kind, name), value in zip(traced.names, outputs, strict=True):
        # graphs that CUDA replays leave their outputs in the same place every time
        kept = value.clone() if value.is_cuda else value
        if kind == "logits":
            logits = kept
        else:
            getattr(record, kind)[name] = kept
    return Called(logits, record, None)


def operations_of(graph: torch.fx.GraphModule) -> int:
    """How many operations a graph has."""
    return sum(node.op == "call_function" for node in graph.graph.nodes)


def others(ids: Tensor, shape: ModelShape) -> Tensor:
    """Other tokens, or other numbers, of the same shape."""
    return 1.0 - ids / 2 if shape.numbers is not None else (ids + 1) % shape.d_vocab


def acting(binding: Binding) -> tuple[Any, ...]:
    """What acts in a call and on which entries, as something that can be compared."""
    chosen = [
        (kind, name, *selected(bound.selection))
        for kind, kept in (("after", binding.after), ("before", binding.before))
        for name, bound in kept.items()
    ]
    edits = [
        (name, *selected(edit.selection)) if hasattr(edit, "selection") else (name,)
        for steps in (binding.steps, binding.cuts)
        for name, found in steps.items()
        for edit in found
    ]
    inserts = [
        (insert.name, name, *(("nothing",) if held is None else selected(held)))
        for insert in binding.inserts
        for name, held in insert.selections.items()
    ]
    return tuple(chosen), tuple(edits), tuple(inserts)


def selected(selection: Selection) -> tuple[Any, ...]:
    """A selection as something that can be compared."""
    return tuple(
        (dim, str(choice.index.tolist()), None if choice.present is None else str(choice.present.tolist()), choice.drop)
        for dim, choice in selection.choices.items()
    )
