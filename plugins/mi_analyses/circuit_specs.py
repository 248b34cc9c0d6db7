"""Circuits as specs: only the circuit does what it does, everything outside is ablated.

A receiver reads the ablated stream plus, for each of its edges, what the sender writes now less what it writes when
ablated. So the circuit of all edges is the model, and the empty one reads ablated streams alone.

Source: Hanna et al. 2024, "Have Faith in Faithfulness" (arXiv:2403.17806), section 2.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

import mi_core as mi
from mi_analyses.circuits import Circuit
from mi_analyses.graph_nodes import Edge, Graph, Node
from mi_core.interventions import Replace
from mi_core.protocols import Site, Tap

__all__ = ["circuit_spec"]


def circuit_spec(model: mi.Model, graph: Graph, circuit: Circuit, ablated: Mapping[str, Tensor]) -> mi.HookSpec:
    """Everything outside of a circuit is ablated; ``ablated`` as `ablated_values` gives it."""
    if not circuit.of_edges:
        return nodes_spec(graph, circuit.nodes, ablated)
    by_stream: dict[str, list[Node]] = {}
    for reader in graph.receivers:
        by_stream.setdefault(graph.stream(reader), []).append(reader)
    spec = mi.HookSpec()
    for stream, readers in by_stream.items():
        edges = [edge for edge in circuit.edges if edge.receiver in readers]
        spec = spec + edges_spec(model, graph, stream, readers, edges, ablated)
    return spec


def nodes_spec(graph: Graph, kept: frozenset[Node], ablated: Mapping[str, Tensor]) -> mi.HookSpec:
    """The output of each node outside is what it is when ablated."""
    outside: dict[str, list[int]] = {}
    for node in graph.senders:
        if node not in kept:
            outside.setdefault(graph.made_of(node).point, []).append(node.head)
    spec = mi.HookSpec()
    for point, heads in outside.items():
        where = {"head": heads} if heads[0] >= 0 else {}
        spec = spec + mi.intervene(point, Replace(ablated[point]).at(**where))
    return spec


def edges_spec(
    model: mi.Model,
    graph: Graph,
    stream: str,
    readers: Sequence[Node],
    edges: Sequence[Edge],
    ablated: Mapping[str, Tensor],
) -> mi.HookSpec:
    """What those read that read one stream."""
    places = [place for reader in readers for place in graph.inputs(reader)]
    heads = {place.point: heads_at(model, place.point) for place in places}
    if not edges:
        writes = (mi.intervene(name, Replace(spread(ablated[stream], n))) for name, n in heads.items())
        return sum(writes, mi.HookSpec())
    weights: dict[tuple[str, str], Tensor] = {}
    for edge in edges:
        source = graph.output(edge.sender)
        for place in graph.inputs(edge.receiver):
            pair = (source.point, place.point)
            if pair not in weights:
                weights[pair] = torch.zeros(heads[place.point] or 1, heads_at(model, source.point) or 1)
            # a node without a head of its own is all rows of what it reads, and the one column of what it writes
            row = next(iter(place.selectors.values()), slice(None))
            weights[pair][row, max(edge.sender.head, 0)] = 1.0
    return mi.insert(EdgeSums(ablated[stream], heads, weights, ablated), f"edges.{stream}")


def heads_at(model: mi.Model, point: str) -> int:
    """How many heads an input or output has; 0 where it has none."""
    site = model.points.find(point).site
    return next((site.sizes[dim] for dim in site.dims[2:-1]), 0)


def spread(stream: Float[Tensor, "batch pos d_model"], heads: int) -> Float[Tensor, "batch pos *heads d_model"]:
    """A stream as inputs have it: once for each head where there are heads."""
    return stream.unsqueeze(2).expand(-1, -1, heads, -1) if heads else stream


class EdgeSums:
    """An insert: the inputs at one stream, made of what senders write in this run."""

    def __init__(
        self,
        stream: Float[Tensor, "batch pos d_model"],
        heads: Mapping[str, int],
        weights: Mapping[tuple[str, str], Float[Tensor, "receivers senders"]],
        ablated: Mapping[str, Tensor],
    ) -> None:
        self.stream = stream
        self.heads = heads
        """The inputs, and how many heads each has."""
        self.weights = weights
        """From outputs to inputs: one for each edge, zero elsewhere."""
        self.ablated = ablated
        self.reads: Sequence[str] = tuple(dict.fromkeys(source for source, _ in weights))
        self.writes: Sequence[str] = tuple(heads)
        self.sites: Sequence[Site] = ()

    def __call__(self, values: Mapping[str, Tensor], tap: Tap) -> Mapping[str, Tensor]:
        """The ablated stream, and what each edge changes in it."""
        found = {point: spread(self.stream, max(heads, 1)) for point, heads in self.heads.items()}
        for (source, point), weight in self.weights.items():
            change = values[source] - self.ablated[source]
            change = change if change.ndim == 4 else change.unsqueeze(2)
            found[point] = found[point] + weight.to(change) @ change
        return {point: value if self.heads[point] else value.squeeze(2) for point, value in found.items()}
