"""The strongest paths through a graph: chains of direct effects from a token to a logit."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import nlargest
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from mi_core.errors import SelectorError
from mi_graphs.influence import shares
from mi_graphs.nodes import ERROR, LOGIT, TOKEN, Node

if TYPE_CHECKING:
    from mi_graphs.graph import AttributionGraph

__all__ = ["Path", "strongest"]

Partial = tuple[float, tuple[int, ...]]


@dataclass(frozen=True)
class Path:
    """One chain of direct effects."""

    nodes: tuple[Node, ...]
    """From the token to the logit."""
    share: float
    """The part of what is predicted that goes along it: the product of its edges' shares, times the probability."""
    contributions: tuple[float, ...]
    """Of each edge."""


def strongest(graph: AttributionGraph, n: int, *, logit: str | int | None, errors: bool) -> list[Path]:
    """The ``n`` paths with the largest shares; sums over all paths are influences, so that these are parts of them.

    Of each node the best ways to it are kept, from below, layer by layer.
    """
    divided, weights = shares(graph.adjacency.values), graph.weights()
    begins = (TOKEN, ERROR) if errors else (TOKEN,)
    order = sorted(range(len(graph.nodes)), key=lambda at: graph.nodes[at].layer)
    best: dict[int, list[Partial]] = {}
    for at in order:
        node = graph.nodes[at]
        own: list[Partial] = [(1.0, (at,))] if node.kind in begins else []
        row = divided[at]
        for source in row.nonzero().flatten().tolist():
            share = float(row[source])
            own += [(share * strength, (*way, at)) for strength, way in best.get(source, ())]
        best[at] = nlargest(n, own, key=lambda partial: partial[0])
    ends = [at for at, node in enumerate(graph.nodes) if node.kind == LOGIT and asked(graph, at, logit)]
    if not ends:
        known = ", ".join(repr(text) for text in graph.probability.coords["logit"])
        raise SelectorError(f"{logit!r} is no target of this graph; these are: {known}.", logit=logit)
    found = [(strength * float(weights[end]), way) for end in ends for strength, way in best[end]]
    return [path(graph, strength, way) for strength, way in nlargest(n, found, key=lambda partial: partial[0])]


def asked(graph: AttributionGraph, at: int, logit: str | int | None) -> bool:
    """Whether a logit's node is one that is asked for."""
    numbers = torch.tensor([node.kind == LOGIT for node in graph.nodes]).cumsum(0) - 1
    return logit is None or logit in (graph.nodes[at].number, graph.probability.coords["logit"][int(numbers[at])])


def path(graph: AttributionGraph, strength: float, way: tuple[int, ...]) -> Path:
    """A path in terms of nodes."""
    values = graph.adjacency.values
    along = tuple(float(values[target, source]) for source, target in pairwise(way))
    return Path(tuple(graph.nodes[at] for at in way), strength, along)
