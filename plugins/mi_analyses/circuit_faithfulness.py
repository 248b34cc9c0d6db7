"""Circuit faithfulness: does a part of the model do what the whole does?

Reach for it when a circuit has been named, to say how good it is. Everything outside is ablated; faithfulness is how
much of the metric is left. A circuit is complete if taking parts away hurts it as it hurts the model, and minimal if
each part is needed.

Source: Wang et al. 2022, "Interpretability in the Wild" (arXiv:2211.00593), section 4 (completeness and minimality);
Mueller et al. 2025, "MIB: A Mechanistic Interpretability Benchmark" (arXiv:2504.13151), section 3 (faithfulness between
the empty circuit, 0, and the model, 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any, ClassVar

import torch

import mi_core as mi
from mi_analyses.ablated_streams import Ablation
from mi_analyses.circuit_runs import CircuitRuns, faithful
from mi_analyses.circuits import Circuit, Member
from mi_analyses.graph_nodes import Graph, Node
from mi_core.analyses import Analysis, require
from mi_core.errors import SelectorError
from mi_core.hookspecs import hookimpl
from mi_core.labelled import Label, Labelled
from mi_core.results import Result, ResultProvenance

__all__ = ["CircuitFaithfulness", "circuit_faithfulness"]

NEEDS = ("hook_resid_pre", "hook_resid_post")


@dataclass(frozen=True, kw_only=True, eq=True)
class CircuitFaithfulness(Result):
    """How much of the model's behaviour a circuit has: 0 is that of the ablated model, 1 that of the whole."""

    faithfulness: float
    """(circuit - ablated model) / (model - ablated model), of means over pairs."""
    metric: Labelled
    """Of the circuit's run on each clean prompt."""
    clean: Labelled
    """Of the whole model."""
    empty: Labelled
    """Of the ablated model: nothing is in the circuit."""
    completeness: Labelled | None
    """Faithfulness without some members: ``removed`` by ``of`` ("circuit", "model"); complete: both columns agree."""
    minimality: Labelled | None
    """Of each ``member``: how much faithfulness changes at most when it goes, beside any of the ``removed`` or none."""
    circuit: tuple[str, ...]
    of_edges: bool
    total: int
    """How many nodes or edges the model has."""
    ablation: Ablation

    title: ClassVar[str] = "Circuit faithfulness"
    template: ClassVar[str] = "mi_analyses/heat_maps.html"
    views: ClassVar[str] = "mi_analyses.circuit_faithfulness_view"


def circuit_faithfulness(
    model: mi.Model,
    clean: Any,
    corrupt: Any,
    metric: mi.Metric | Callable[..., Any],
    circuit: Sequence[str] | Path,
    *,
    ablation: Ablation = "counterfactual",
    removed: int | Mapping[str, Sequence[str]] = 0,
    minimality: bool = False,
    heads: bool = True,
    seed: int = 0,
    attention_mask: Any = None,
    batch: int | str = "auto",
    progress: bool | None = None,
) -> CircuitFaithfulness:
    """Does a part of the model do what the whole does?

    Args:
        model: any model whose stream is the sum of what its layers write.
        clean: a prompt, or several.
        corrupt: what outside parts are ablated to: as many prompts (counterfactual), or any number to take the mean or
            draws from; None where they are zero.
        metric: what is measured, such as ``mi.logit_diff(" Mary", " John")``; answers for all prompts, or for each.
        circuit: nodes (``["embed", "L3H2", "mlp 1"]``), or edges (``["embed -> L0H1.q", ...]``), or a JSON file.
        ablation: ``"counterfactual"``, ``"mean"``, ``"resample"`` or ``"zero"``.
        removed: what is taken away to see whether the circuit is complete: named groups of members, or how many random
            halves of the circuit (the embedding stays).
        minimality: whether to take each member away too.
        heads: False takes each layer's attention as one node.
        seed: of random halves and draws.
        attention_mask: as in `Model.run`, of the clean prompts (and of as many corrupt ones).
        batch: as in `Model.sweep`.
        progress: as in `Model.sweep`.

    Raises:
        UnsupportedAnalysis: the model lacks a site, or its stream is no plain sum; the message says why.
        SelectorError: no such node or edge; nodes without the embedding; prompts of different lengths.
        ValueMismatch: the metric does not tell the model from the ablated one.
    """
    require(model, NEEDS, "circuit_faithfulness")
    graph = Graph.of(model, heads=heads)
    chosen = Circuit.of(graph, circuit)
    check_input(chosen)
    options = {"attention_mask": attention_mask, "batch": batch, "progress": progress, "seed": seed}
    runs = CircuitRuns.of(model, graph, clean, corrupt, metric, ablation, of_edges=chosen.of_edges, **options)
    groups = removals(graph, chosen, removed, seed)
    circuits: dict[Label, Circuit] = {"circuit": chosen}
    for name, gone in groups.items():
        circuits[f"circuit, {name}"] = chosen.without(gone)
        circuits[f"model, {name}"] = runs.everything().without(gone)
    if minimality:
        circuits |= {label: chosen.without(gone) for label, _, gone in without_each(chosen, groups)}
    measured, whole, empty = runs.measured(circuits)
    found = faithful(measured, whole, empty)
    run = runs.prompts.run
    return CircuitFaithfulness(
        provenance=ResultProvenance.of(model, run, mi.HookSpec(), clean),
        faithfulness=float(found.sel(circuit="circuit").item()),
        metric=measured.sel(circuit="circuit"),
        clean=whole,
        empty=empty,
        completeness=completeness_of(found, groups) if groups else None,
        minimality=minimality_of(found, chosen, groups) if minimality else None,
        circuit=tuple(map(str, chosen.members)),
        of_edges=chosen.of_edges,
        total=len(runs.everything().members),
        ablation=ablation,
    )


def check_input(circuit: Circuit) -> None:
    """Refuse nodes without the embedding: nothing of the clean prompt would enter."""
    if circuit.nodes and Node("embed") not in circuit.nodes:
        raise SelectorError(
            f"the circuit {', '.join(map(str, circuit.members))} has no 'embed', so that nothing of the clean prompt "
            "enters it: add 'embed'.",
        )


def removals(
    graph: Graph, circuit: Circuit, removed: int | Mapping[str, Sequence[str]], seed: int
) -> dict[str, frozenset[Member]]:
    """What is taken away: named groups, or random halves of the circuit.

    Raises:
        SelectorError: a group has members that the circuit does not have.
    """
    if isinstance(removed, int):
        draw = torch.Generator().manual_seed(seed)
        # without the embedding nothing is left of either
        some = [member for member in circuit.members if member != Node("embed")]
        halves = [(torch.rand(len(some), generator=draw) < 0.5).tolist() for _ in range(removed)]
        return {f"half{number}": frozenset(compress(some, half)) for number, half in enumerate(halves)}
    groups = {name: frozenset(Circuit.of(graph, names).members) for name, names in removed.items()}
    for name, members in groups.items():
        if left := members.difference(circuit.members):
            raise SelectorError(
                f"the group {name!r} takes away {str(min(left, key=str))!r}, which the circuit has not."
            )
    return groups


def without_each(
    circuit: Circuit, groups: Mapping[str, frozenset[Member]]
) -> list[tuple[str, Member, frozenset[Member]]]:
    """A label, a member, and what is taken away: the member alone, and beside each group that it is not in."""
    found: list[tuple[str, Member, frozenset[Member]]] = []
    for member in circuit.members:
        found.append((f"{member}", member, frozenset({member})))
        found += [(f"{member}, {name}", member, gone | {member}) for name, gone in groups.items() if member not in gone]
    return found


def completeness_of(found: Labelled, groups: Mapping[str, frozenset[Member]]) -> Labelled:
    """Faithfulness of circuit and model without each group."""
    values = [[found.sel(circuit=f"{of}, {name}").item() for of in ("circuit", "model")] for name in groups]
    coords: dict[str, Sequence[Label]] = {"removed": tuple(groups), "of": ("circuit", "model")}
    return Labelled(torch.tensor(values), ("removed", "of"), coords, "faithfulness")


def minimality_of(found: Labelled, circuit: Circuit, groups: Mapping[str, frozenset[Member]]) -> Labelled:
    """How much the faithfulness changes at most when a member goes."""
    largest = dict.fromkeys(circuit.members, 0.0)
    for label, member, _ in without_each(circuit, groups):
        _, beside, name = label.partition(", ")
        before = found.sel(circuit=f"circuit, {name}" if beside else "circuit").item()
        largest[member] = max(largest[member], abs(before - found.sel(circuit=label).item()))
    labels = tuple(map(str, circuit.members))
    return Labelled(torch.tensor(list(largest.values())), ("member",), {"member": labels}, "change")


@hookimpl
def mi_analysis() -> Analysis:
    """What the core needs to know about circuit faithfulness."""
    return Analysis("Does a part of the model do what the whole does?", NEEDS, circuit_faithfulness)


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi circuit``."""
    from mi_analyses.circuit_faithfulness_command import circuit

    return circuit
