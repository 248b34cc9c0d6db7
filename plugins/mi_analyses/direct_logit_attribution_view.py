"""Direct logit attribution in a terminal and on its page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType

from mi_analyses.heat_view import Map, heat_view, place_of, spelled
from mi_core.labelled import visible

__all__ = ["page", "view"]


def view(result: Any) -> RenderableType:
    """The prompt, what each component and each head writes, and the largest in words."""
    return heat_view("attribution", result.provenance, lines(result), maps(result), largest(result))


def page(result: Any) -> Mapping[str, Any]:
    """The same for the page."""
    return {
        "lead": "What each part writes towards the answer, through the final norm at its scale of this run.",
        "lines": lines(result),
        "maps": maps(result),
        "last": largest(result),
    }


def lines(result: Any) -> list[tuple[str, str]]:
    """The prompt, and what is taken apart."""
    tokens = result.provenance.tokens
    more = f" and {len(tokens) - 1} more" if len(tokens) > 1 else ""
    against = f" over {visible(result.wrong[0])}" if result.wrong else ""
    logit = f"{visible(result.answer[0])}{against}   {result.logit.name} {float(result.logit.values.mean()):.2f}"
    return [("prompt", spelled(tokens[0]) + more), ("answer", f"{logit} at position {result.pos}")]


def maps(result: Any) -> list[Map]:
    """Components and heads, means over rows."""
    over = ", mean over prompts" if len(result.answer) > 1 else ""
    found = [Map(f"components{over}", result.component.mean("batch"), "They sum to it; the remainder is the biases'.")]
    if result.head.values.numel():
        note = "A layer's heads sum to its attention, but for the output projection's bias."
        found.append(Map(f"heads{over}", result.head.mean("batch"), note))
    return found


def largest(result: Any) -> str:
    """The component, the head and the neuron that write the most."""
    component = result.component.mean("batch")
    place = int(component.values.argmax())
    found = f"Largest: {component.coords['component'][place]} {float(component.values[place]):.2f}"
    for kind, shares in (("heads", result.head), ("neurons", result.neuron)):
        if shares.values.numel():
            mean = shares.mean("batch")
            place = int(mean.values.argmax())
            found += f"; of the {kind} {place_of(mean, place)} {float(mean.values.flatten()[place]):.2f}"
    return f"{found}."
