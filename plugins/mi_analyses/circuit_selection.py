"""From scored edges to a circuit: the largest, or greedily from the logits back, without what leads nowhere.

Source: Hanna et al. 2024, "Have Faith in Faithfulness" (arXiv:2403.17806), section 3.2 (greedy search) and appendix;
Syed et al. 2023 (arXiv:2310.10348), section 3 (the largest).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from mi_analyses.graph_names import Edge, Node
from mi_core.errors import SelectorError
from mi_core.labelled import Labelled

__all__ = ["Selection", "chosen_edges", "connected"]

Selection = Literal["top", "greedy"]


def chosen_edges(
    scores: Labelled, n: int | None, threshold: float | None, select: Selection, prune: bool
) -> tuple[str, ...]:
    """See `EdgeAttribution.circuit`."""
    if (n is None) == (threshold is None) or (n is not None and n < 0):
        raise SelectorError(f"n={n!r}, threshold={threshold!r}: give the number of edges, or a threshold.", n=n)
    if select not in ("top", "greedy"):
        raise SelectorError(f'select={select!r}: circuits are chosen by "top" or "greedy".', select=select)
    senders = [Node.parse(str(label)) for label in scores.coords["sender"]]
    receivers = [Node.parse(str(label)) for label in scores.coords["receiver"]]
    values = scores.values.abs().tolist()
    sizes = {
        Edge(sender, receiver): values[row][column]
        for column, receiver in enumerate(receivers)
        for row, sender in enumerate(senders)
        if values[row][column] == values[row][column]
    }
    ranked = sorted(sizes, key=lambda edge: -sizes[edge])
    ranked = [edge for edge in ranked if threshold is None or sizes[edge] >= threshold]
    feeding = Feeding(senders, receivers)
    chosen = set(greedily(ranked, feeding, n) if select == "greedy" else ranked[:n])
    if prune:
        chosen = connected(chosen, feeding)
    return tuple(str(edge) for edge in sizes if edge in chosen)


class Feeding:
    """Which senders' outputs depend on what a receiver reads."""

    def __init__(self, senders: Iterable[Node], receivers: Iterable[Node]) -> None:
        self.heads: dict[int, int] = {}
        self.kv_heads: dict[int, int] = {}
        for counted, nodes, kind in ((self.heads, senders, "head"), (self.kv_heads, receivers, "kv_head")):
            for node in nodes:
                if node.kind == kind:
                    counted[node.layer] = max(counted.get(node.layer, 0), node.head + 1)

    def outputs(self, receiver: Node) -> tuple[Node, ...]:
        """A head for each of its inputs; of a shared key or value every head that shares it; none for the logits."""
        if receiver.kind == "logits":
            return ()
        if receiver.kind == "kv_head":
            group = self.heads[receiver.layer] // self.kv_heads[receiver.layer]
            first = receiver.head * group
            return tuple(Node("head", receiver.layer, head) for head in range(first, first + group))
        return (Node(receiver.kind, receiver.layer, receiver.head),)


def greedily(ranked: Sequence[Edge], feeding: Feeding, n: int | None) -> list[Edge]:
    """Edges from the logits back: always the largest of those into something that is there already."""
    there: set[Node] = set()
    found: list[Edge] = []
    left = list(ranked)
    while left and (n is None or len(found) < n):
        wanted = (e for e in left if e.receiver.kind == "logits" or there.intersection(feeding.outputs(e.receiver)))
        best = next(wanted, None)
        if best is None:
            break
        left.remove(best)
        found.append(best)
        there.add(best.sender)
    return found


def connected(edges: Iterable[Edge], feeding: Feeding) -> set[Edge]:
    """The edges that lie on a path from the embedding to the logits."""
    kept = set(edges)
    while True:
        reached = {node for edge in kept for node in feeding.outputs(edge.receiver)}
        read = {edge.sender for edge in kept}
        dead = {
            edge
            for edge in kept
            if (edge.sender.kind != "embed" and edge.sender not in reached)
            or (edge.receiver.kind != "logits" and not read.intersection(feeding.outputs(edge.receiver)))
        }
        if not dead:
            return kept
        kept -= dead
