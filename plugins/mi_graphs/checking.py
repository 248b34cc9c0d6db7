"""What really happens without a feature, beside what the graph says.

Two things are asked. Is the graph right: with everything held that it holds, each target must change by the edge, to
rounding. And is it about the model: with nothing held, attention moves, norms change, features come and go; a graph
that explains a prompt well says nearly what happens then, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

import mi_core as mi
from mi_core.dictionaries import Dictionary
from mi_core.errors import InputError, SelectorError
from mi_core.labelled import Labelled
from mi_core.results import Result
from mi_dictionaries import DictionarySet
from mi_graphs.effects import DirectEffects, Target
from mi_graphs.graph import AttributionGraph
from mi_graphs.logits import salient
from mi_graphs.nodes import FEATURE, LOGIT, Node
from mi_graphs.replacement import OUT, LocalReplacement
from mi_graphs.sources import Sources
from mi_graphs.transcoders import Transcoders

__all__ = ["GraphCheck", "check_graph", "written"]


@dataclass(frozen=True, kw_only=True, eq=True)
class GraphCheck(Result):
    """How logits change when features are scaled, by the graph and in fact. Logits are less their mean."""

    edge: Labelled
    """``feature logit``: by the edge between them."""
    frozen: Labelled
    """``feature logit``: in fact, with attention patterns, norms and MLPs' outputs held: it must equal the edge."""
    along_paths: Labelled
    """``feature logit``: by all paths, as if features grew and shrank with what they read and none came or went."""
    real: Labelled
    """``feature logit``: in fact, with nothing held."""
    deviation: Labelled
    """``feature``: the largest difference between edge and fact over all nodes that it feeds, with all held, as a part
    of the largest change."""
    factor: float
    """What each feature was multiplied by: 0 ablates it."""

    title: ClassVar[str] = "Check of an attribution graph"
    views: ClassVar[str] = "mi_graphs.check_view"

    def agreement(self) -> float:
        """The correlation, over features and logits, of what paths say with what happens."""
        both = torch.stack([self.along_paths.values.flatten(), self.real.values.flatten()])
        return float(torch.corrcoef(both)[0, 1])


def check_graph(
    graph: AttributionGraph,
    model: mi.Model,
    dictionary: Dictionary | DictionarySet,
    *,
    features: Sequence[Node] | None = None,
    n: int = 10,
    factor: float = 0.0,
    batch: int = 16,
) -> GraphCheck:
    """What happens to the logits when a feature is scaled, by the graph and in fact?

    Args:
        graph: of this model and dictionary.
        model: the model.
        dictionary: the transcoders.
        features: nodes of the graph; by default those of the largest influence.
        n: so many of them.
        factor: what a feature is multiplied by: 0 ablates, 2 doubles.
        batch: features of one run.

    Raises:
        InputError: the graph is of another model or dictionary: activations differ.
        SelectorError: a node that is no feature of the graph.
    """
    held = LocalReplacement.of(model, [list(graph.provenance.ids[0])], Transcoders.of(model, dictionary))
    with torch.no_grad():
        sources = Sources.of(held, ())
        own = matched(graph, sources)
        chosen = [graph.nodes.index(node) for node in asked(graph, features, n)]
        every, targets = targets_of(graph, held, sources, own)
        parts = [
            changes(held, sources, torch.tensor([own[at] for at in chosen[first : first + batch]]), factor, targets)
            for first in range(0, len(chosen), batch)
        ]
    frozen, real = (torch.cat(each) for each in zip(*parts, strict=True))
    said = (factor - 1) * graph.adjacency.values[every][:, chosen].T
    paths = (factor - 1) * along_paths(graph)[:, chosen].T
    names = tuple(graph.text(graph.nodes[at]) for at in chosen)
    coords = {"feature": names, "logit": graph.probability.coords["logit"]}

    def by_logit(values: Tensor, name: str) -> Labelled:
        return Labelled(values[:, -len(coords["logit"]) :], ("feature", "logit"), coords, name, "logits")

    missed = (frozen - said).abs().amax(1) / said.abs().amax(1).clamp(min=1e-30)
    return GraphCheck(
        provenance=graph.provenance,
        edge=by_logit(said, "edge"),
        frozen=by_logit(frozen, "all held"),
        along_paths=by_logit(paths, "along all paths"),
        real=by_logit(real, "nothing held"),
        deviation=Labelled(missed, ("feature",), {"feature": names}, "deviation"),
        factor=factor,
    )


def changes(
    held: LocalReplacement, sources: Sources, chosen: Int[Tensor, "row"], factor: float, targets: Sequence[Target]
) -> tuple[Float[Tensor, "row target"], Float[Tensor, "row target"]]:
    """How targets change when one feature is scaled in each row: with everything held, and with nothing held."""
    edit = mi.HookSpec()
    for point, change in written(held, sources, chosen, factor - 1).items():
        edit = edit + mi.intervene(point, mi.Add(change))
    effects = DirectEffects(held, sources, len(chosen))
    before, points = effects.values(targets), list(dict.fromkeys(target.point for target in targets))
    real = held.model.run([list(held.ids)] * len(chosen), edit + mi.capture(points), logits=None)
    frozen = held.run(len(chosen), edit)
    return effects.values(targets, frozen) - before, effects.values(targets, real) - before


def matched(graph: AttributionGraph, sources: Sources) -> dict[int, int]:
    """Where each feature of the graph stands among those that are active."""
    found = zip(sources.layer.tolist(), sources.pos.tolist(), sources.feature.tolist(), strict=True)
    places = {place: at for at, place in enumerate(found)}
    own = {}
    for at, node in enumerate(graph.nodes):
        if node.kind == FEATURE:
            there = places.get((node.layer, node.pos, node.number))
            value = float(graph.activation.values[at])
            if there is None or abs(float(sources.value[there]) - value) > 1e-2 * max(1e-3, abs(value)):
                seen = "not active" if there is None else f"{float(sources.value[there]):.4g}"
                raise InputError(
                    f"{graph.text(node)} is {value:.4g} in the graph and {seen} in this model: the graph is of another "
                    "model, other transcoders, or numbers of another precision.",
                    node=node.id,
                )
            own[at] = there
    return own


def asked(graph: AttributionGraph, features: Sequence[Node] | None, n: int) -> list[Node]:
    """The features to be scaled."""
    if features is not None:
        if wrong := [node for node in features if node.kind != FEATURE or node not in graph.nodes]:
            raise SelectorError(f"{wrong} are no features of this graph: graph.find(layer, pos, feature) gives one.")
        return list(features)
    order = graph.cumulative.values.argsort(stable=True).tolist()
    found = [graph.nodes[at] for at in order if graph.nodes[at].kind == FEATURE][:n]
    if not found:
        raise SelectorError("the graph has no features, so that there is nothing to scale.")
    return found


def targets_of(
    graph: AttributionGraph, held: LocalReplacement, sources: Sources, own: dict[int, int]
) -> tuple[list[int], list[Target]]:
    """The features and logits of a graph, and the directions that they read."""
    effects = DirectEffects(held, sources, 1)
    logits = [at for at, node in enumerate(graph.nodes) if node.kind == LOGIT]
    read = salient(held.model, held.clean, [graph.nodes[at].number for at in logits], len(logits), 1.0)
    targets = effects.features(torch.tensor(list(own.values()), dtype=torch.long))
    return [*own, *logits], [*targets, *(Target(OUT, -1, direction) for direction in read.directions)]


def written(
    held: LocalReplacement, sources: Sources, chosen: Int[Tensor, "row"], scale: float
) -> dict[str, Float[Tensor, "row pos d"]]:
    """What is added at each MLP's output, one feature in each row, for ``scale`` times its activation more."""
    found: dict[str, Tensor] = {}
    points = [held.transcoders.outputs[layer] for layer in sources.layers]
    layers = list(held.transcoders.by_layer)
    for row, at in enumerate(chosen.tolist()):
        number = layers.index(int(sources.layer[at]))
        rows = sources.writes[number][at - sources.starts[number]]
        for place, write in zip(sources.targets[number], rows, strict=True):
            empty = write.new_zeros(len(chosen), held.n_pos, len(write))
            found.setdefault(points[place], empty)[row, int(sources.pos[at])] += scale * write
    return found


def along_paths(graph: AttributionGraph) -> Float[Tensor, "logit node"]:
    """The change of each logit for each node doubled, along all paths, as if features followed what they read."""
    values, activation = graph.adjacency.values, graph.activation.values
    relative = torch.where(graph.of_kind(FEATURE), 1 / activation, torch.zeros_like(activation)).nan_to_num(posinf=0.0)
    logits = graph.of_kind(LOGIT)
    step = values[logits]
    total = step.clone()
    for _ in range(graph.n_layers + 1):
        step = (step * relative) @ values
        total = total + step
    return total
