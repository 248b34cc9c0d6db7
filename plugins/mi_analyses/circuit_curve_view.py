"""Circuit curves in a terminal and on their page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType

from mi_analyses.circuit_faithfulness_view import circuit_lines
from mi_analyses.heat_view import Map, heat_view

__all__ = ["page", "view"]


def view(result: Any) -> RenderableType:
    """Faithfulness by size, and both areas."""
    return heat_view("circuit curve", result.provenance, lines(result), maps(result), verdict(result))


def page(result: Any) -> Mapping[str, Any]:
    """The same for the page, with the metric of each prompt."""
    return {
        "lead": "How faithful the circuits of the highest scores are, from the smallest to the largest.",
        "lines": lines(result),
        "maps": [*maps(result), Map("metric of each prompt", result.metric)],
        "last": verdict(result),
    }


def lines(result: Any) -> list[tuple[str, str]]:
    """What was ranked, and the metric of model and ablated model."""
    what = "edges" if result.of_edges else "nodes"
    first = "highest first" if result.by == "value" else "largest first, whatever their sign"
    return [("scores", f"{result.total} {what}, {first}"), *circuit_lines(result)]


def maps(result: Any) -> list[Map]:
    """The curve."""
    return [
        Map("faithfulness", result.faithfulness, "0 is the ablated model, 1 the whole; size: members of the circuit.")
    ]


def verdict(result: Any) -> str:
    """Both areas."""
    return f"Area under the curve (CPR) {result.cpr:.2f}; area between it and 1 (CMD) {result.cmd:.2f}."
