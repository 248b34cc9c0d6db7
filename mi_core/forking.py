"""Where a run first differs from a base run: the layer and the position from which it must be computed anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from mi_core.binding import Binding, BoundEdit
from mi_core.layout import Layout
from mi_core.names import Point
from mi_core.selection import Selection

__all__ = ["Fork", "fork_of"]

FROM_EMBEDDING = -1


@dataclass(frozen=True, eq=False)
class Fork:
    """A variant goes on from the base run's stream before ``layer``, from each row's column ``first`` on."""

    layer: int
    """-1: from the embedding; n_layers: only the unembedding is run."""
    first: Int[Tensor, "batch"]
    """The base run's memory stands in for the columns before it."""

    def lowered(self, step: int) -> Fork:
        """The same fork, its column rounded down, so that neighbours start together."""
        return Fork(self.layer, self.first // step * step)


def fork_of(own: Binding, whole: Binding) -> Fork:
    """The fork of a variant: ``own`` is what it does beside the base, ``whole`` is everything that it does.

    Layers before the first at which it does something of its own are the base's. So are columns before the first that
    any edit from there on reaches, and that any capture of its own wants.
    """
    n_layers = own.points.shape.n_layers
    layer = min((layer_of(name, own) for name in own.asked), default=n_layers)
    layer = where_inserts_begin(layer, whole)
    first = whole.layout.length.clone() - 1
    for selection, point in reached(whole, layer):
        first = torch.minimum(first, earliest(selection, point, whole.layout))
    for capture in (*own.after.values(), *own.before.values()):
        first = torch.minimum(first, earliest(capture.selection, capture.point, whole.layout))
    if not own.points.shape.causal:
        # earlier columns see what is written behind them
        first = torch.zeros_like(first)
    return Fork(layer, first.clamp(min=0))


def where_inserts_begin(layer: int, whole: Binding) -> int:
    """A layer, or the one before it in which an insert begins to read that is called, or writes, from there on."""
    spans = []
    for insert in whole.inserts:
        reads, writes = ([layer_of(name, whole) for name in names] for names in (insert.reads, insert.writes))
        spans.append((min(reads), max(*reads, *writes)))
    for first, last in sorted(spans, reverse=True):
        if first < layer <= last:
            layer = first
    return layer


def layer_of(name: str, binding: Binding) -> int:
    """The layer in which a point fires; -1 for the embedding, n_layers behind the layers."""
    point = binding.points.by_name[name]
    if point.layer is not None:
        return point.layer
    return FROM_EMBEDDING if binding.points.embedding(point) else binding.points.shape.n_layers


def reached(binding: Binding, layer: int) -> Iterator[tuple[Selection | None, Point]]:
    """What is written from a layer on: the selection (None: everything) and the point."""
    for steps in (binding.steps, binding.cuts):
        for name, found in steps.items():
            if layer_of(name, binding) >= layer:
                for step in found:
                    yield (step.selection if isinstance(step, BoundEdit) else None), binding.points.by_name[name]


def earliest(selection: Selection | None, point: Point, layout: Layout) -> Int[Tensor, "batch"]:
    """The first column of each row that a selection reaches; what lies before it is left as it is."""
    nothing = torch.zeros_like(layout.length)
    if point.site.from_start:
        return nothing
    dim = next((dim for dim in point.site.dims if dim in ("pos", "query_pos")), None)
    if selection is None or dim is None or dim not in selection.choices:
        return nothing
    choice = selection.choices[dim]
    index = choice.index if choice.per_row else choice.index.expand(len(layout.length), -1)
    if choice.present is not None:
        index = torch.where(choice.present, index, layout.length[:, None] - 1)
    return index.amin(1)
