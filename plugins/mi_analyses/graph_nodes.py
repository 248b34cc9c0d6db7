"""The model as a graph: which nodes write to the residual stream, which read it, and where both can be reached.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits": the stream is the sum of what is
written to it, so what a node reads is a sum over those that wrote before.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor

import mi_core as mi
from mi_analyses.graph_names import PARTS, Edge, Kind, Node
from mi_core.errors import SelectorError, UnsupportedAnalysis
from mi_core.interventions import Intervention

__all__ = ["PARTS", "Edge", "Graph", "Node", "Place", "refuse_other_sums"]


@dataclass(frozen=True)
class Place:
    """A point, and what of it."""

    point: str
    selectors: Mapping[str, int] = field(default_factory=dict)

    def write(self, intervention: Intervention) -> mi.HookSpec:
        """The intervention at this place."""
        return mi.intervene(self.point, intervention.at(**self.selectors))

    def capture(self) -> mi.HookSpec:
        """The values at this place."""
        return mi.capture(self.point).at(**self.selectors)


@dataclass(frozen=True)
class LayerNodes:
    """What a layer has."""

    parallel: bool
    heads: int = 0
    """Heads that are nodes of their own; 0 where the layer's attention is one node, or where it has none."""
    kv_heads: int = 0
    attn: bool = False
    """Whether the attention (or another mixer) is one node."""
    attn_reads: bool = False
    """Whether its inputs can be written apart from the stream."""
    mlp: bool = False


@dataclass(frozen=True, eq=False)
class Graph:
    """The nodes of a model in the order in which they write, and who can read whom."""

    name: str
    layers: tuple[LayerNodes, ...]

    @classmethod
    def of(cls, model: mi.Model, *, heads: bool = True) -> Graph:
        """The graph of a model; ``heads=False`` takes each layer's attention as one node.

        A layer's attention is one node anyway where its heads do not add straight to the stream: behind a post-norm.

        Raises:
            UnsupportedAnalysis: the stream is more than the sum of what is written to it.
        """
        refuse_other_sums(model)
        apart = layers_of_plain_heads(model) if heads else frozenset()
        sites: list[dict[str, Mapping[str, int]]] = [{} for _ in range(model.shape.n_layers)]
        for point in model.hook_points():
            if point.layer is not None:
                sites[point.layer][point.site.name] = point.site.sizes
        layers = []
        for layer, here in enumerate(sites):
            has, splits = "hook_attn_out" in here, layer in apart
            layers.append(
                LayerNodes(
                    parallel=bool(model.shape.residual) and model.shape.residual[layer].kind == "parallel",
                    heads=here["attn.hook_result"]["head"] if splits else 0,
                    kv_heads=here["hook_k_input"]["kv_head"] if splits else 0,
                    attn=has and not splits,
                    attn_reads="hook_q_input" in here,
                    mlp="hook_mlp_in" in here and "hook_mlp_out" in here,
                )
            )
        return cls(model.name, tuple(layers))

    @cached_property
    def senders(self) -> tuple[Node, ...]:
        """Everything that writes to the stream: the embedding, then layer by layer."""
        found = [Node("embed")]
        for layer, here in enumerate(self.layers):
            found += [Node("head", layer, head) for head in range(here.heads)]
            found += [Node("attn", layer)] * here.attn + [Node("mlp", layer)] * here.mlp
        return tuple(found)

    @cached_property
    def receivers(self) -> tuple[Node, ...]:
        """Everything that reads the stream, the logits last."""
        found: list[Node] = []
        for layer, here in enumerate(self.layers):
            found += [node for part in PARTS for node in self._readers(layer, part)]
            found += [Node("attn", layer)] * (here.attn and here.attn_reads) + [Node("mlp", layer)] * here.mlp
        return (*found, Node("logits"))

    def _readers(self, layer: int, part: str) -> list[Node]:
        here = self.layers[layer]
        shared = part != "q" and here.kv_heads != here.heads
        kind: Kind = "kv_head" if shared else "head"
        return [Node(kind, layer, head, part) for head in range(here.kv_heads if shared else here.heads)]

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """Every edge, by receiver, then by sender."""
        return tuple(
            Edge(sender, receiver)
            for receiver in self.receivers
            for sender in self.senders
            if self.feeds(sender, receiver)
        )

    def feeds(self, sender: Node, receiver: Node) -> bool:
        """Whether what one node writes is part of what the other reads, with nothing in between."""
        return self.writes_at(sender) <= self.reads_at(receiver)

    def behind(self, receiver: Node, other: Node) -> bool:
        """Whether what a receiver makes of its input can be part of what another one reads."""
        return receiver.kind != "logits" and self.feeds(receiver, other)

    def writes_at(self, node: Node) -> int:
        """From which reading on a node's output is there: each layer has two, at 2 i and 2 i + 1."""
        if node.kind in ("embed", "resid"):
            return 0 if node.kind == "embed" else 2 * node.layer
        early = node.kind != "mlp" and not self.layers[node.layer].parallel
        return 2 * node.layer + (1 if early else 2)

    def reads_at(self, node: Node) -> int:
        """At which reading a node reads: the mixer's at 2 i, the channel part's behind it at 2 i + 1."""
        if node.kind == "logits":
            return 2 * len(self.layers)
        late = node.kind == "mlp" and not self.layers[node.layer].parallel
        return 2 * node.layer + (1 if late else 0)

    def sender(self, name: str | Node) -> Node:
        """The node of a name, if it writes; the stream before a layer counts.

        Raises:
            SelectorError: this model has no such node, or it only reads.
        """
        node = Node.parse(name)
        if node.kind == "resid" and 0 <= node.layer < len(self.layers):
            return node
        return self._known(node, self.senders, "writes to the stream")

    def readers(self, name: str | Node) -> tuple[Node, ...]:
        """The receivers of a name: a head without a part stands for its query, key and value.

        Raises:
            SelectorError: this model has no such node, it only writes, or its keys and values are other heads' too.
        """
        node = Node.parse(name)
        here = self.layers[node.layer] if 0 <= node.layer < len(self.layers) else None
        if (
            here is not None
            and node.kind == "head"
            and node.part != "q"
            and 0 < here.kv_heads != here.heads > node.head
        ):
            group = node.head // (here.heads // here.kv_heads)
            raise SelectorError(
                f"{str(node)!r} is no input of its own in {self.name}: query head {node.head} reads kv_head {group}, "
                f"with others. Name 'L{node.layer}H{node.head}.q', 'L{node.layer}KV{group}.k' or '.v'.",
                node=str(node),
            )
        parts = [replace(node, part=part) for part in PARTS] if node.kind == "head" and not node.part else [node]
        return tuple(self._known(part, self.receivers, "reads the stream") for part in parts)

    def edge(self, name: str | Edge) -> Edge:
        """The edge of a name.

        Raises:
            SelectorError: this model has no such edge.
        """
        found = Edge.parse(name)
        sender, readers = self.sender(found.sender), self.readers(found.receiver)
        if len(readers) != 1:
            raise SelectorError(f"{str(found)!r} is {len(readers)} edges: say which part of the head reads.", edge=name)
        if not self.feeds(sender, readers[0]):
            raise SelectorError(f"{self.name} has no edge {str(found)!r}: the sender writes later.", edge=name)
        return Edge(sender, readers[0])

    def _known(self, node: Node, known: Iterable[Node], what: str) -> Node:
        if node in (among := tuple(known)):
            return node
        close = difflib.get_close_matches(str(node), map(str, among), n=1, cutoff=0.0)
        raise SelectorError(
            f"{self.name} has no node {str(node)!r} that {what}. Closest: {close[0]!r}.", node=str(node), closest=close
        )

    def output(self, sender: Node) -> Place:
        """Where a node's write can be read and written, before it is added to the stream."""
        if sender.kind == "embed":
            return Place("blocks.0.hook_resid_pre")
        if sender.kind == "head":
            return Place(f"blocks.{sender.layer}.attn.hook_result", {"head": sender.head})
        site = {"attn": "hook_attn_out", "mlp": "hook_mlp_out", "resid": "hook_resid_pre"}[sender.kind]
        return Place(f"blocks.{sender.layer}.{site}")

    def made_of(self, sender: Node) -> Place:
        """What a node's write is made of: a head's values before the output projection, else the write itself."""
        if sender.kind != "head":
            return self.output(sender)
        return Place(f"blocks.{sender.layer}.attn.hook_z", {"head": sender.head})

    def written(self, model: mi.Model, runs: Sequence[mi.Run], senders: Iterable[Node]) -> Iterator[list[Tensor]]:
        """What each node wrote to the stream, ``[batch pos d_model]``, in runs that captured what its write is made of.

        The weights of a layer are asked for once for all of its heads that stand side by side.
        """
        for (kind, layer), found in groupby(senders, lambda sender: (sender.kind, sender.layer)):
            weight = model.weights[f"blocks.{layer}.attn.W_O"] if kind == "head" else None
            for sender in found:
                values = [run[self.made_of(sender).point] for run in runs]
                if weight is not None:
                    values = [value[:, :, sender.head] @ weight[sender.head].to(value) for value in values]
                yield values

    def stream(self, receiver: Node) -> str:
        """The stream that a node reads."""
        if receiver.kind == "logits":
            return f"blocks.{len(self.layers) - 1}.hook_resid_post"
        if self.reads_at(receiver) % 2:
            return f"blocks.{receiver.layer}.hook_resid_mid"
        return f"blocks.{receiver.layer}.hook_resid_pre"

    def inputs(self, receiver: Node) -> tuple[Place, ...]:
        """Where what a node reads can be written without anybody else reading it."""
        where = f"blocks.{receiver.layer}."
        if receiver.kind == "logits":
            return (Place(self.stream(receiver)),)
        if receiver.kind == "mlp":
            return (Place(f"{where}hook_mlp_in"),)
        if receiver.kind == "attn":
            return tuple(Place(f"{where}hook_{part}_input") for part in PARTS)
        here = self.layers[receiver.layer]
        dim = "head" if receiver.part == "q" else "kv_head"
        assert receiver.head < (here.heads if dim == "head" else here.kv_heads)
        return (Place(f"{where}hook_{receiver.part}_input", {dim: receiver.head}),)


def refuse_other_sums(model: mi.Model) -> None:
    """Refuse models whose stream is more than the sum of what is written to it."""
    for layer, rule in enumerate(model.shape.residual):
        if rule.kind not in ("sequential", "parallel"):
            raise UnsupportedAnalysis(
                f"{model.name!r} is no graph of nodes around a stream: the stream of layer {layer} is more than the "
                f"sum of what is written to it (rule {rule.kind!r}{f': {rule.reason}' if rule.reason else ''}). "
                "Patch its activations instead.",
                layer=layer,
                kind=rule.kind,
            )


def layers_of_plain_heads(model: mi.Model) -> frozenset[int]:
    """The layers whose heads add to the stream as they are, seen on one token: no post-norm, no multiplier."""
    have = {(point.layer, point.site.name) for point in model.hook_points()}
    needed = ("attn.hook_result", "attn.hook_out", "hook_attn_out", "hook_q_input")
    able = [layer for layer in range(model.shape.n_layers) if all((layer, site) in have for site in needed)]
    if not able:
        return frozenset()
    both = mi.capture(["blocks.*.attn.hook_out", "blocks.*.hook_attn_out"]).at(layer=able)
    run = model.run([[0]], both, logits=None)
    pairs = {layer: (run[f"blocks.{layer}.attn.hook_out"], run[f"blocks.{layer}.hook_attn_out"]) for layer in able}
    return frozenset(layer for layer, (own, added) in pairs.items() if torch.equal(own, added))
