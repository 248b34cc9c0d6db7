"""How much does each node and each edge matter for what a model predicts, and which may be left out?

Contributions are taken by size, each row divided by its sum: where a target's value comes from, as shares. Walking
back from the logits along these shares, a node's influence is how often one comes by.

Source: Ameisen et al. 2025, "Circuit Tracing", appendix "Graph Pruning"; circuit-tracer 0.4.1, graph.py
(github.com/safety-research/circuit-tracer): ``compute_influence``, ``prune_graph``, ``compute_graph_scores``,
``compute_partial_influences``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_core.errors import SelectorError, ValueMismatch

__all__ = ["Kept", "completeness", "cumulative", "influence", "kept", "partial_influence", "replacement", "shares"]

Nodes = Float[Tensor, "node"]
Edges = Float[Tensor, "target source"]


def shares(adjacency: Edges) -> Edges:
    """The sizes of contributions, each row divided by its sum; rows without any stay zero.

    >>> shares(torch.tensor([[0.0, 0.0], [3.0, -1.0]])).tolist()
    [[0.0, 0.0], [0.75, 0.25]]
    """
    sizes = adjacency.abs()
    divided: Tensor = sizes / sizes.sum(1, keepdim=True).clamp(min=1e-10)
    return divided


def influence(adjacency: Edges, weights: Nodes) -> Nodes:
    """How much of ``weights`` (the logits' probabilities, at their nodes) goes back to each node, over all paths.

    Raises:
        ValueMismatch: walking back never ends: the edges go round in a circle.
    """
    return walked(shares(adjacency), weights)


def walked(divided: Edges, weights: Nodes) -> Nodes:
    """The sum of ``weights`` times every power of the shares."""
    step, total = weights, torch.zeros_like(weights)
    for _ in range(len(divided) + 1):
        step = step @ divided
        if not bool(step.any()):
            return total
        total = total + step
    raise ValueMismatch("the edges of the graph go round in a circle, so that no node comes before another.")


def partial_influence(
    rows: Float[Tensor, "known node"], row_nodes: Int[Tensor, "known"], weights: Float[Tensor, "logit"]
) -> Nodes:
    """The influence that is known from some rows alone; the last nodes are the logits."""
    sizes = rows.abs()
    divided = sizes / sizes.sum(1, keepdim=True).clamp(min=1e-8)
    step = rows.new_zeros(rows.shape[1])
    step[-len(weights) :] = weights
    total = torch.zeros_like(step)
    for _ in range(len(rows) + 1):
        step = step[row_nodes] @ divided
        if not bool(step.any()):
            break
        total = total + step
    return total


def cumulative(found: Nodes) -> Nodes:
    """The share of all influence that a node has together with those that have more; small is important.

    >>> cumulative(torch.tensor([1.0, 6.0, 3.0])).tolist()
    [1.0, 0.6000000238418579, 0.8999999761581421]
    """
    values, order = found.sort(descending=True, stable=True)
    shared = torch.zeros_like(found)
    shared[order] = (values.double().cumsum(0) / values.double().sum().clamp(min=1e-30)).to(found)
    return shared


def threshold(scores: Float[Tensor, "n"], share: float) -> float:
    """The smallest of those scores that together make up a share of their sum, largest first."""
    values = scores.sort(descending=True).values
    if not len(values):
        return 0.0
    summed = values.double().cumsum(0)
    at = int(torch.searchsorted(summed / summed[-1].clamp(min=1e-30), share))
    return float(values[min(at, len(values) - 1)])


@dataclass(frozen=True, eq=False)
class Kept:
    """What pruning leaves."""

    nodes: Bool[Tensor, "node"]
    edges: Bool[Tensor, "target source"]


def kept(
    adjacency: Edges,
    weights: Nodes,
    droppable: Bool[Tensor, "node"],
    features: Bool[Tensor, "node"],
    *,
    node_share: float = 0.8,
    edge_share: float = 0.98,
) -> Kept:
    """The nodes and edges that carry most of the influence.

    Nodes with the largest influence, up to a share of it, and of the edges between them those with the largest; then
    no node is left without an edge out of it, and no feature without one into it.

    Args:
        adjacency: contributions.
        weights: the logits' probabilities at their nodes, zero elsewhere.
        droppable: features and errors; tokens and logits stay.
        features: which nodes are features.
        node_share: of the influence that the kept nodes have.
        edge_share: of the influence along edges that the kept edges have.

    Raises:
        SelectorError: a share beyond 0 to 1.
    """
    for name, share in (("node_share", node_share), ("edge_share", edge_share)):
        if not 0 < share <= 1:
            raise SelectorError(f"{name}={share!r}: give a share of the influence, above 0 and at most 1.", share=share)
    found = influence(adjacency, weights)
    nodes = (found >= threshold(found, node_share)) | ~droppable
    left = torch.where(nodes[:, None] & nodes[None], adjacency, 0)
    divided = shares(left)
    scores = divided * (walked(divided, weights) + weights)[:, None]
    edges = (scores > 0) & (scores >= threshold(scores[scores > 0], edge_share))
    while True:
        before = nodes
        nodes = nodes & (~droppable | edges.any(0)) & (~features | edges.any(1))
        if bool((nodes == before).all()):
            return Kept(nodes, edges)
        edges = edges & nodes[:, None] & nodes[None]


def replacement(found: Nodes, errors: Bool[Tensor, "node"], tokens: Bool[Tensor, "node"]) -> float:
    """The part of the influence of inputs that comes from tokens, and not from errors: 1 where features explain all."""
    from_tokens, from_errors = float(found[tokens].sum()), float(found[errors].sum())
    return from_tokens / max(from_tokens + from_errors, 1e-30)


def completeness(adjacency: Edges, found: Nodes, weights: Nodes, errors: Bool[Tensor, "node"]) -> float:
    """The part of nodes' inputs that is no error, averaged by how much each node matters."""
    explained = 1 - shares(adjacency)[:, errors].sum(1)
    matters = found + weights
    return float((explained * matters).sum() / matters.sum().clamp(min=1e-30))
