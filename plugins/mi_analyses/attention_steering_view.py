"""Attention steering in a terminal and on its page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType

from mi_analyses.heat_view import Map, heat_view, spelled

__all__ = ["page", "view"]


def view(result: Any) -> RenderableType:
    """The prompt and its edges, and what each dose does to share and metric."""
    return heat_view("attention steering", result.provenance, lines(result), maps(result), found(result))


def page(result: Any) -> Mapping[str, Any]:
    """The same for the page."""
    return {
        "lead": "What the model says when it looks more, or less, at something.",
        "lines": lines(result),
        "maps": maps(result),
        "last": found(result),
    }


def lines(result: Any) -> list[tuple[str, str]]:
    """The prompt, the edges, and both measures of the model as it is."""
    tokens = result.provenance.tokens
    more = f" and {len(tokens) - 1} more" if len(tokens) > 1 else ""
    share, metric = (float(each.values.mean()) for each in (result.share_before, result.baseline))
    return [
        ("prompt", f"{spelled(tokens[0])}{more}   {result.baseline.name} {metric:.2f}"),
        ("edges", f"{result.edges}   share {100 * share:.1f}%"),
    ]


def maps(result: Any) -> list[Map]:
    """Both curves, means over rows where there are several."""
    several = len(result.provenance.tokens) > 1
    note = "Measured in the steered run: 1 is all that the queries give."
    return [
        Map(array.name + (", mean over prompts" if several else ""), array.mean("batch"), text)
        for array, text in ((result.share, note), (result.response, ""))
    ]


def found(result: Any) -> str:
    """The dose that was sought."""
    return "" if result.found_dose is None else f"{result.how} {result.found_dose:.4g} gives {result.found:.4g}."
