"""Ablation in a terminal and on its page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType

from mi_analyses.heat_view import Map, heat_view, place_of, spelled

__all__ = ["page", "view"]

SHOWN = 5
"""Parts that are named."""


def view(result: Any) -> RenderableType:
    """The prompt, the effect of each part, and the largest in words."""
    return heat_view("ablation", result.provenance, lines(result), maps(result), largest(result))


def page(result: Any) -> Mapping[str, Any]:
    """The same for the page, with every prompt's own effects."""
    alone = [Map("effect on each prompt", result.effects)] if len(result.tokens) > 1 else []
    return {
        "lead": f"How the metric changes without each part at {result.site} ({result.how} ablation).",
        "lines": lines(result),
        "maps": [*maps(result), *alone],
        "last": largest(result),
    }


def lines(result: Any) -> list[tuple[str, str]]:
    """The prompts with their metric, and what was done."""
    more = f" and {len(result.tokens) - 1} more" if len(result.tokens) > 1 else ""
    metric = f"{result.baseline.name} {float(result.baseline.values.mean()):.2f}"
    window = f", {result.window} layers at a time" if result.window > 1 else ""
    return [
        ("prompt", f"{spelled(result.tokens[0])}{more}   {metric}"),
        ("ablate", f"{result.site}, {result.how}{window}"),
    ]


def maps(result: Any) -> list[Map]:
    """The mean effect, and its interval where there are several prompts."""
    note = "effect: the metric without the part, less the metric with it."
    found = [Map(result.effect.name, result.effect, note)]
    if len(result.tokens) > 1:
        found.append(Map(f"interval of the mean, {100 * result.level:g} %, bootstrap over prompts", result.interval))
    return found


def largest(result: Any) -> str:
    """The parts with the largest effects."""
    values = result.effect.values.flatten()
    best = values.abs().topk(min(SHOWN, len(values))).indices.tolist()
    return (
        "Largest: " + "; ".join(f"{place_of(result.effect, place)} {float(values[place]):.2f}" for place in best) + "."
    )
