"""A circuit: some of a model's nodes, or some of its edges.

A circuit of nodes has every edge that leaves one of them. Files are JSON: a list of names, ``{"nodes": [...]}`` or
``{"edges": [...]}``, or a graph as Hanna et al.'s code saves it, whose edges say whether they are ``in_graph``.

Source: Wang et al. 2022, "Interpretability in the Wild" (arXiv:2211.00593), section 2 (a circuit of nodes); Hanna et
al. 2024, "Have Faith in Faithfulness" (arXiv:2403.17806), section 2 (a circuit of edges).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from mi_analyses.graph_nodes import Edge, Graph, Node
from mi_core.errors import SelectorError
from mi_core.plain import read_json

__all__ = ["Circuit", "Member", "names_in"]

Member: TypeAlias = Node | Edge


@dataclass(frozen=True)
class Circuit:
    """Nodes, or edges, in the model's order."""

    members: tuple[Member, ...]
    of_edges: bool
    """Whether the members are edges."""

    @classmethod
    def of(cls, graph: Graph, given: Sequence[str] | Path, *, of_edges: bool | None = None) -> Circuit:
        """The circuit of some names, or of a file; ``of_edges`` says what an empty one consists of.

        Raises:
            SelectorError: the model has no such node or edge, or both are named.
        """
        names = names_in(given) if isinstance(given, Path) else list(given)
        edges = [str(name) for name in names if "->" in str(name)]
        if edges and len(edges) < len(names):
            other = next(name for name in names if "->" not in str(name))
            raise SelectorError(f"a circuit consists of nodes or of edges, not of both {edges[0]!r} and {other!r}.")
        if edges or (of_edges and not names):
            return cls.of_members(graph, {graph.edge(name) for name in edges}, True)
        return cls.of_members(graph, {graph.sender(name) for name in names}, False)

    @classmethod
    def of_members(cls, graph: Graph, members: Iterable[Member], of_edges: bool) -> Circuit:
        """The circuit of some nodes or edges.

        Raises:
            SelectorError: one is the stream as a whole, which is no node of a circuit.
        """
        chosen = set(members)
        everything: tuple[Member, ...] = graph.edges if of_edges else graph.senders
        if left := chosen.difference(everything):
            raise SelectorError(f"{str(min(left, key=str))!r} is no member of a circuit: name the nodes that it sums.")
        return cls(tuple(member for member in everything if member in chosen), of_edges)

    def without(self, removed: Iterable[Member]) -> Circuit:
        """The circuit less some members."""
        gone = set(removed)
        return Circuit(tuple(member for member in self.members if member not in gone), self.of_edges)

    @property
    def nodes(self) -> frozenset[Node]:
        """The nodes of a circuit of nodes."""
        return frozenset(member for member in self.members if isinstance(member, Node))

    @property
    def edges(self) -> frozenset[Edge]:
        """The edges of a circuit of edges."""
        return frozenset(member for member in self.members if isinstance(member, Edge))


def names_in(path: Path) -> list[str]:
    """The names of a circuit in a file.

    Raises:
        SelectorError: the file holds no circuit.
    """
    held = read_json(path)
    if isinstance(held, Mapping):
        held = held.get("edges") or held.get("nodes")
    if isinstance(held, Mapping):
        held = [name for name, entry in held.items() if (entry["in_graph"] if isinstance(entry, Mapping) else entry)]
    if not isinstance(held, list) or not all(isinstance(name, str) for name in held):
        raise SelectorError(
            f"{str(path)!r} holds no circuit: it must be a list of names, or have them under 'nodes' or 'edges'.",
            path=str(path),
        )
    return held
