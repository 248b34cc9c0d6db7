"""Path patching in a terminal and on its page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType

from mi_analyses.activation_patching_view import direction, pair_lines, several, strongest
from mi_analyses.heat_view import Map, heat_view
from mi_analyses.node_maps import node_maps

__all__ = ["page", "view"]


def view(result: Any) -> RenderableType:
    """The prompts, the effect of each sender, and the largest in words."""
    return heat_view("path patching", result.provenance, lines(result), maps(result), strongest(result))


def page(result: Any) -> Mapping[str, Any]:
    """The same for the page, with every pair's own effects."""
    pairs = node_maps("effect of each pair", result.effects) if several(result) else []
    return {
        "lead": f"What each node's output, handed from {direction(result)}, does by way of {receivers(result)}, in "
        "parts of what the whole prompt does.",
        "lines": lines(result),
        "maps": [*maps(result), *pairs, *node_maps("metric of each patched run", result.metric)],
        "last": strongest(result),
    }


def receivers(result: Any) -> str:
    """Who was handed what the senders write."""
    return ", ".join(result.receivers) or "everybody"


def lines(result: Any) -> list[tuple[str, str]]:
    """The prompts with their metrics, and the paths."""
    between = f", MLPs {result.mlps}" if result.receivers else ", all paths"
    return [*pair_lines(result), ("paths", f"each sender to {receivers(result)}{between}, {direction(result)}")]


def maps(result: Any) -> list[Map]:
    """The mean effect, and its interval where there are several pairs."""
    note = "effect: 0 changes nothing, 1 does all that the whole other prompt does; a dash: no such path."
    found = node_maps("effect" if not several(result) else "effect, mean over pairs", result.effect, note)
    if several(result):
        found += node_maps(f"interval of the mean, {100 * result.level:g} %, bootstrap over pairs", result.interval)
    return found
