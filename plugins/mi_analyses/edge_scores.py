"""First-order scores of every edge: what each sender changes, times the gradient at what each receiver reads.

All of them are a few matrix products, one for each layer of receivers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

import mi_core as mi
from mi_analyses.first_order import Comparison, Gradients
from mi_analyses.graph_nodes import Graph, Node

__all__ = ["edge_scores", "inputs_of", "writes_of"]

Scores = Float[Tensor, "sender receiver"]


def writes_of(graph: Graph) -> list[str]:
    """The points that senders' writes are made of."""
    return list(dict.fromkeys(graph.made_of(sender).point for sender in graph.senders))


def inputs_of(graph: Graph) -> list[str]:
    """The points at which gradients tell receivers apart."""
    return list(dict.fromkeys(place.point for receiver in graph.receivers for place in graph.inputs(receiver)))


def edge_scores(
    compared: Comparison, graph: Graph, under: mi.Run, given: mi.Run, steps: int, of_activations: bool
) -> Scores:
    """The score of each edge, summed over rows and positions; NaN where there is no edge.

    ``steps`` gradients are averaged on the way between the embeddings, or, ``of_activations``, for each sender on the
    way between its own two outputs (heads of a layer together).
    """
    reads = inputs_of(graph)
    if not (steps and of_activations):
        total = scored(compared, graph, graph.senders, under, given, compared.runs(under, given, reads, steps))
    else:
        parts = []
        for point, found in groupby(graph.senders, lambda sender: graph.made_of(sender).point):
            runs = compared.runs(under, given, reads, steps, point)
            parts.append(scored(compared, graph, tuple(found), under, given, runs))
        total = torch.cat(parts)
    there = torch.tensor([[graph.feeds(one, other) for other in graph.receivers] for one in graph.senders])
    return (total / max(1, steps)).masked_fill(~there, torch.nan)


def scored(
    compared: Comparison,
    graph: Graph,
    senders: Sequence[Node],
    under: mi.Run,
    given: mi.Run,
    runs: Iterator[mi.Run],
) -> Scores:
    """The scores of some senders, summed over the runs at which gradients are taken."""
    written = graph.written(compared.model, (given, under), senders)
    changes = torch.stack([other.detach().float() - own.detach().float() for other, own in written]).flatten(1)
    total = torch.zeros(len(senders), len(graph.receivers))
    for run in runs:
        gradients = run.grad(compared.metric, inputs_of(graph))
        at = 0
        for _, members in groupby(graph.receivers, lambda receiver: receiver.layer):
            read = torch.stack([gradient_at(graph, receiver, gradients) for receiver in members]).flatten(1)
            total[:, at : at + len(read)] += (changes @ read.T).cpu()
            at += len(read)
    return total


def gradient_at(graph: Graph, receiver: Node, gradients: Gradients) -> Float[Tensor, "batch pos d_model"]:
    """The gradient at what a receiver reads: of an attention as one, the sum over all that reads for it."""
    total: Tensor | None = None
    for place in graph.inputs(receiver):
        found = gradients[place.point].float()
        chosen: Mapping[str, int] = place.selectors
        found = found[:, :, next(iter(chosen.values()))] if chosen else found
        found = found.sum(2) if found.ndim == 4 else found
        total = found if total is None else total + found
    assert total is not None
    return total
