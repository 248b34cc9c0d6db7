"""Circuit curves: how faithful are the circuits of the highest scores, from the smallest to the whole model?

Reach for it to judge scores of nodes or edges (attributions, effects) rather than one circuit: the area under the curve
says how early a circuit does what the model does, the area between the curve and 1 how closely circuits match the
model.

Source: Hanna et al. 2024, "Have Faith in Faithfulness" (arXiv:2403.17806), section 3 (faithfulness by circuit size);
Mueller et al. 2025, "MIB: A Mechanistic Interpretability Benchmark" (arXiv:2504.13151), section 3 (both areas, the
sizes).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, Literal

import torch

import mi_core as mi
from mi_analyses.ablated_streams import Ablation
from mi_analyses.circuit_faithfulness import NEEDS
from mi_analyses.circuit_runs import CircuitRuns, faithful
from mi_analyses.circuits import Circuit
from mi_analyses.graph_nodes import Graph, Node
from mi_core.analyses import Analysis, require
from mi_core.errors import SelectorError, ValueMismatch
from mi_core.hookspecs import hookimpl
from mi_core.labelled import Label, Labelled
from mi_core.results import Result, ResultProvenance

__all__ = ["CircuitCurve", "circuit_curve"]

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
By = Literal["value", "size"]


@dataclass(frozen=True, kw_only=True, eq=True)
class CircuitCurve(Result):
    """Faithfulness by circuit size."""

    faithfulness: Labelled
    """Of the circuit of each ``size`` (members): 0 is the ablated model, 1 the whole; ratios of means over pairs."""
    metric: Labelled
    """Of each circuit on each prompt: ``size batch``."""
    clean: Labelled
    """Of the whole model."""
    empty: Labelled
    """Of the ablated model."""
    cpr: float
    """Integrated circuit performance ratio: the area under the curve over the share of members. Higher is better."""
    cmd: float
    """Integrated circuit-model distance: the area between the curve and 1. Zero is best."""
    total: int
    """Nodes or edges of the model that have a score."""
    of_edges: bool
    by: By
    """Whether the largest scores come first, or those of the largest size, whatever their sign."""
    ablation: Ablation

    title: ClassVar[str] = "Circuit curve"
    template: ClassVar[str] = "mi_analyses/heat_maps.html"
    views: ClassVar[str] = "mi_analyses.circuit_curve_view"


def circuit_curve(
    model: mi.Model,
    clean: Any,
    corrupt: Any,
    metric: mi.Metric | Callable[..., Any],
    scores: Mapping[str, float] | Labelled,
    *,
    sizes: Sequence[float | int] = SIZES,
    by: By = "value",
    ablation: Ablation = "counterfactual",
    heads: bool = True,
    seed: int = 0,
    attention_mask: Any = None,
    batch: int | str = "auto",
    progress: bool | None = None,
) -> CircuitCurve:
    """How faithful are the circuits of the highest scores, from the smallest to the whole model?

    Args:
        model: any model whose stream is the sum of what its layers write.
        clean: a prompt, or several.
        corrupt: as in `circuit_faithfulness`.
        metric: what is measured, such as ``mi.logit_diff(" Mary", " John")``.
        scores: of nodes, or of edges, by name; or an array with one axis of such names, or of senders by receivers. An
            embedding without a score is in every circuit of nodes; everything else without a score is in none.
        sizes: how many members, or (floats up to 1) which share of those with a score; the published shares by default.
        by: ``"value"``: the largest scores come first; ``"size"``: the largest whatever their sign.
        ablation: as in `circuit_faithfulness`.
        heads: as in `circuit_faithfulness`.
        seed: of draws.
        attention_mask: as in `Model.run`, of the clean prompts (and of as many corrupt ones).
        batch: as in `Model.sweep`.
        progress: as in `Model.sweep`.

    Raises:
        UnsupportedAnalysis: the model lacks a site, or its stream is no plain sum; the message says why.
        SelectorError: no such node or edge, a size that is none, or prompts of different lengths.
        ValueMismatch: a score is no number; the metric does not tell the model from the ablated one.
    """
    require(model, NEEDS, "circuit_curve")
    graph = Graph.of(model, heads=heads)
    ranked, of_edges = ranking(graph, scores, by)
    counts = sorted({count_of(size, len(ranked)) for size in sizes})
    options = {"attention_mask": attention_mask, "batch": batch, "progress": progress, "seed": seed}
    runs = CircuitRuns.of(model, graph, clean, corrupt, metric, ablation, of_edges=of_edges, **options)
    always = () if of_edges or Node("embed") in ranked else (Node("embed"),)
    circuits: dict[Label, Circuit] = {
        count: Circuit.of_members(graph, (*always, *ranked[:count]), of_edges) for count in counts
    }
    measured, whole, empty = runs.measured(circuits)
    found = faithful(measured, whole, empty)
    curve = Labelled(found.values, ("size",), {"size": tuple(counts)}, "faithfulness")
    shares = torch.tensor(counts, dtype=torch.float64) / len(ranked)
    run = runs.prompts.run
    return CircuitCurve(
        provenance=ResultProvenance.of(model, run, mi.HookSpec(), clean),
        faithfulness=curve,
        metric=Labelled(measured.values, ("size", "batch"), {"size": tuple(counts)}, measured.name, measured.unit),
        clean=whole,
        empty=empty,
        cpr=float(torch.trapezoid(curve.values.double(), shares)),
        cmd=float(torch.trapezoid((1 - curve.values.double()).abs(), shares)),
        total=len(ranked),
        of_edges=of_edges,
        by=by,
        ablation=ablation,
    )


def ranking(graph: Graph, scores: Mapping[str, float] | Labelled, by: By) -> tuple[list[Any], bool]:
    """The nodes or edges that have a score, the best first (those alike in the model's order), and whether it is edges.

    Raises:
        SelectorError: nodes and edges are mixed, or the model has no such member.
        ValueMismatch: a score is no number.
    """
    if by not in ("value", "size"):
        raise SelectorError(f'by={by!r}: the first are those of the largest "value", or of the largest "size".', by=by)
    named = labelled_scores(scores) if isinstance(scores, Labelled) else {str(k): float(v) for k, v in scores.items()}
    whole = Circuit.of(graph, list(named))
    parse = graph.edge if whole.of_edges else graph.sender
    of: dict[Any, float] = {parse(name): score for name, score in named.items()}
    if broken := [name for name, score in named.items() if score != score]:
        raise ValueMismatch(f"the score of {broken[0]!r} is not a number.", node=broken[0])
    return sorted(whole.members, key=lambda member: -(abs(of[member]) if by == "size" else of[member])), whole.of_edges


def labelled_scores(scores: Labelled) -> dict[str, float]:
    """The scores of an array with one axis of names, or of senders by receivers; what is empty has none.

    >>> ends = {"sender": ("embed", "mlp 0"), "receiver": ("mlp 0", "logits")}
    >>> labelled_scores(Labelled(torch.tensor([[1.0, 2.0], [torch.nan, 3.0]]), ("sender", "receiver"), ends))
    {'embed -> mlp 0': 1.0, 'embed -> logits': 2.0, 'mlp 0 -> logits': 3.0}

    Raises:
        SelectorError: it has other axes.
    """
    if len(scores.dims) > 1 and scores.dims != ("sender", "receiver"):
        raise SelectorError(
            f"scores have one axis of names, or 'sender' and 'receiver'; these have {scores.dims}: take means."
        )
    names = [" -> ".join(map(str, labels)) for labels in product(*(scores.coords[dim] for dim in scores.dims))]
    return {name: value for name, value in zip(names, scores.values.flatten().tolist(), strict=True) if value == value}


def count_of(size: float | int, total: int) -> int:
    """How many members a size stands for.

    >>> count_of(0.001, 300), count_of(0.5, 300), count_of(7, 300)
    (1, 150, 7)
    """
    if isinstance(size, float) and 0 < size <= 1:
        return max(1, round(size * total))
    if isinstance(size, int) and 0 <= size <= total:
        return size
    raise SelectorError(f"a size is a number of members up to {total}, or a share above 0 up to 1; got {size!r}.")


@hookimpl
def mi_analysis() -> Analysis:
    """What the core needs to know about circuit curves."""
    return Analysis("How faithful are the circuits of the highest scores?", NEEDS, circuit_curve)
