"""Edge attribution in a terminal and on its page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType

from mi_analyses.activation_patching_view import direction, pair_lines
from mi_analyses.heat_view import Map, heat_view
from mi_analyses.node_maps import node_maps
from mi_core.labelled import Labelled

__all__ = ["page", "view"]

IN_TERMINAL, ON_PAGE = 12, 50


def view(result: Any) -> RenderableType:
    """The prompts, how edges were scored, and the largest."""
    return heat_view("edge attribution", result.provenance, lines(result), maps(result, IN_TERMINAL), total(result))


def page(result: Any) -> Mapping[str, Any]:
    """The same for the page, with more edges and what each node sends in all."""
    return {
        "lead": "What the metric would change by if one edge carried what it carries for the other prompt, to first "
        "order.",
        "lines": lines(result),
        "maps": [*maps(result, ON_PAGE), *sent(result)],
        "last": total(result),
    }


def lines(result: Any) -> list[tuple[str, str]]:
    """The prompts with their metrics, and how edges were scored."""
    what = "embeddings" if result.along == "inputs" else "outputs of each sender"
    how = f"mean of {result.steps} gradients between the {what}" if result.steps else "one gradient"
    return [*pair_lines(result), ("score", f"{how}, {direction(result)}")]


def maps(result: Any, n: int) -> list[Map]:
    """The largest edges."""
    largest = result.largest(n)
    names = tuple(name.replace(" -> ", "→").replace(" ", "") for name in largest.coords["edge"])
    coords = {"edge": names, "metric": (result.clean.name,)}
    shown = Labelled(largest.values[:, None], ("edge", "metric"), coords, largest.name, largest.unit)
    return [Map("largest edges", shown, "What the metric would change by.")]


def sent(result: Any) -> list[Map]:
    """The sizes of all edges that leave a node, summed."""
    score = result.score
    sums = Labelled(score.values.abs().nansum(1), ("sender",), {"sender": score.coords["sender"]}, "sum of sizes")
    return node_maps("sum of the sizes of all outgoing edges", sums)


def total(result: Any) -> str:
    """How many edges there are."""
    return f"{int((~result.score.values.isnan()).sum())} edges scored."
