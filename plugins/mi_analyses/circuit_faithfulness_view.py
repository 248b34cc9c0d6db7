"""Circuit faithfulness in a terminal and on its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import RenderableType

from mi_analyses.heat_view import Map, heat_view
from mi_analyses.node_maps import node_maps
from mi_core.labelled import Labelled

__all__ = ["circuit_lines", "page", "view"]

SHOWN = 12
"""Members that are listed."""


def view(result: Any) -> RenderableType:
    """The circuit, what it does, and what its members do."""
    return heat_view("circuit faithfulness", result.provenance, lines(result), maps(result), verdict(result))


def page(result: Any) -> Mapping[str, Any]:
    """The same for the page, with the metric of each prompt."""
    each = Map("metric of each prompt", by_run(result))
    return {
        "lead": "How much of what the model does a part of it does, with everything else ablated.",
        "lines": lines(result),
        "maps": [*maps(result), each],
        "last": verdict(result),
    }


def lines(result: Any) -> list[tuple[str, str]]:
    """The circuit, and the metric of model, circuit and ablated model."""
    names = ", ".join(result.circuit[:SHOWN])
    more = f", and {len(result.circuit) - SHOWN} more" if len(result.circuit) > SHOWN else ""
    what = "edges" if result.of_edges else "nodes"
    return [
        ("circuit", f"{len(result.circuit)} of {result.total} {what}: {names}{more}"),
        *circuit_lines(result, [("circuit", result.metric)]),
    ]


def circuit_lines(result: Any, others: Sequence[tuple[str, Labelled]] = ()) -> list[tuple[str, str]]:
    """The mean metric of the model, of the ablated model, and of others."""
    name = result.clean.name
    means = [("model", result.clean), *others, ("ablated", result.empty)]
    said = ", ".join(f"{label} {float(values.values.mean()):.2f}" for label, values in means)
    rows = result.clean.values.numel()
    return [("metric", f"{name}{f', mean over {rows} prompts' if rows > 1 else ''}: {said} ({result.ablation})")]


def by_run(result: Any) -> Labelled:
    """The metric of each prompt in the three runs."""
    values = torch.stack([result.clean.values, result.metric.values, result.empty.values])
    runs = ("model", "circuit", "ablated")
    return Labelled(values, ("run", "batch"), {"run": runs}, result.metric.name, result.metric.unit)


def maps(result: Any) -> list[Map]:
    """Completeness and minimality, where they were asked for."""
    found = []
    if result.completeness is not None:
        note = "faithfulness without some members: the circuit is complete if it falls as the model does."
        found.append(Map("completeness", result.completeness, note))
    if result.minimality is not None:
        note = "how much faithfulness changes at most when a member goes: what changes nothing is not needed."
        if result.of_edges:
            found.append(Map("minimality", result.minimality, note))
        else:
            found += node_maps("minimality", result.minimality, note, dim="member")
    return found


def verdict(result: Any) -> str:
    """How faithful the circuit is."""
    return f"Faithfulness {result.faithfulness:.2f}: 0 is the ablated model, 1 the whole."
