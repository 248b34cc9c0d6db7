"""The attribution graph of a prompt, as a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_core.errors import SelectorError
from mi_core.labelled import Labelled, visible
from mi_core.results import Result
from mi_graphs.influence import kept
from mi_graphs.nodes import ERROR, FEATURE, LOGIT, TOKEN, Node
from mi_graphs.paths import Path, strongest

__all__ = ["AttributionGraph"]


@dataclass(frozen=True, kw_only=True, eq=True)
class AttributionGraph(Result):
    """What contributed directly to what, for one prompt: from tokens and errors by way of features to logits."""

    adjacency: Labelled
    """``target source``: how much a target's value would be lower without the source. A feature's value is its
    pre-activation, a logit's is what it has over the mean of the vocabulary."""
    total: Labelled
    """``node``: a feature's pre-activation without the encoder's bias, a logit's value; NaN of errors and tokens."""
    remainder: Labelled
    """``node part``: what of it no edge of this graph contributes: features and edges that were left out, and biases
    with whatever stands at skipped positions. Contributions and remainder sum to the total."""
    activation: Labelled
    """``node``: how active a feature is; NaN of other nodes."""
    influence: Labelled
    """``node``: on what the model predicts, over all paths; of the whole graph, also where this is a part of it."""
    cumulative: Labelled
    """``node``: the share of all influence that it has together with those that have more: small is important."""
    probability: Labelled
    """``logit``: of each token that is a target."""
    places: tuple[tuple[str, int, int, int], ...]
    """Kind, layer, position and number of each node: see ``nodes``."""
    n_layers: int
    active: int
    """How many features were active, at positions that were not skipped."""
    dictionary: str
    """Which transcoders."""
    replacement: float
    """The part of the influence of inputs that comes from tokens and not from errors; NaN where it is not known."""
    completeness: float
    """The part of nodes' inputs that is no error, averaged by how much each node matters; NaN where it is not known."""
    node_share: float = 1.0
    edge_share: float = 1.0
    """Of the influence, what was kept when it was pruned."""
    promoted: Mapping[str, tuple[tuple[str, float], ...]] = field(default_factory=dict)
    """The tokens that a feature, as ``LAYER_NUMBER``, promotes most, straight through the unembedding."""

    title: ClassVar[str] = "Attribution graph"
    template: ClassVar[str] = "mi_graphs/graph.html"
    views: ClassVar[str] = "mi_graphs.graph_view"

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes: features by layer, position and number, then errors, tokens and logits."""
        return tuple(Node(*place) for place in self.places)

    @property
    def prompt_tokens(self) -> tuple[str, ...]:
        """The prompt, cut into tokens."""
        return self.provenance.tokens[0]

    def of_kind(self, *kinds: str) -> Bool[Tensor, "node"]:
        """Which nodes are of some kinds."""
        return torch.tensor([node.kind in kinds for node in self.nodes], dtype=torch.bool)

    def weights(self) -> Float[Tensor, "node"]:
        """The probability of each logit, at its node; zero elsewhere."""
        found = torch.zeros(len(self.nodes))
        found[self.of_kind(LOGIT)] = self.probability.values.float()
        return found

    def text(self, node: Node) -> str:
        """A node in words, as tables show it."""
        if node.kind == LOGIT:
            at = [one.number for one in self.nodes if one.kind == LOGIT].index(node.number)
            label = self.probability.coords["logit"][at]
            return f"says {visible(label)}"
        where = f"{node.pos} {visible(self.prompt_tokens[node.pos])}"
        if node.kind == TOKEN:
            return where
        what = "error" if node.kind == ERROR else f"#{node.number}"
        return f"L{node.layer} {what} at {where}"

    def find(self, layer: int, pos: int, feature: int) -> Node:
        """The node of a feature.

        Raises:
            SelectorError: it is none; the message says which features are, there.
        """
        wanted = Node(FEATURE, layer, pos, feature)
        if wanted not in self.nodes:
            there = [node.number for node in self.nodes if (node.kind, node.layer, node.pos) == (FEATURE, layer, pos)]
            raise SelectorError(
                f"feature {feature} of layer {layer} is no node at position {pos}; these are: {there or 'none'}.",
                features=tuple(there),
            )
        return wanted

    def prune(self, node_share: float = 0.8, edge_share: float = 0.98) -> AttributionGraph:
        """The part that carries most of the influence, as circuit-tracer's ``prune_graph`` leaves it.

        Args:
            node_share: of the influence that the kept nodes have; tokens and logits always stay.
            edge_share: of the influence along the edges between them that the kept edges have.
        """
        found = kept(
            self.adjacency.values,
            self.weights(),
            self.of_kind(FEATURE, ERROR),
            self.of_kind(FEATURE),
            node_share=node_share,
            edge_share=edge_share,
        )
        part = self._with_edges(torch.where(found.edges, self.adjacency.values, 0))
        nodes = found.nodes.nonzero().flatten().tolist()
        return replace(part.only(nodes), node_share=node_share, edge_share=edge_share)

    def _with_edges(self, values: Float[Tensor, "target source"]) -> AttributionGraph:
        """The same nodes with some of the edges; what the others contributed is left out."""
        remainder = self.remainder.values.clone()
        remainder[:, 0] += self.adjacency.values.sum(1) - values.sum(1)
        return replace(
            self,
            adjacency=replace(self.adjacency, values=values),
            remainder=replace(self.remainder, values=remainder),
        )

    def only(self, at: Sequence[int]) -> AttributionGraph:
        """The graph of some of the nodes, by their places, and the edges between them."""
        kept = torch.zeros(len(self.nodes))
        kept[list(at)] = 1
        part = self._with_edges(self.adjacency.values * kept)
        cut: dict[str, Any] = {
            name: array.at_places("node", at) for name, array in part.arrays().items() if "node" in array.dims
        }
        adjacency = part.adjacency.at_places("target", at).at_places("source", at)
        return replace(self, adjacency=adjacency, places=tuple(self.places[place] for place in at), **cut)

    def edges(self) -> list[tuple[Node, Node, float]]:
        """Source, target and contribution of every edge, the largest first."""
        values = self.adjacency.values
        targets, sources = values.nonzero(as_tuple=True)
        order = values[targets, sources].abs().argsort(descending=True, stable=True)
        found = zip(targets[order].tolist(), sources[order].tolist(), strict=True)
        return [(self.nodes[source], self.nodes[target], float(values[target, source])) for target, source in found]

    def paths(self, n: int = 10, *, logit: str | int | None = None, errors: bool = False) -> list[Path]:
        """The strongest paths from the prompt's tokens to the logits, or to one of them.

        Args:
            n: how many.
            logit: a token that is a target, by its text or its id; None for all of them.
            errors: also those that begin at an error.
        """
        return strongest(self, n, logit=logit, errors=errors)
