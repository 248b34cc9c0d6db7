"""Activation steering in a terminal and on its page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from mi_analyses.heat_view import Map, heat_view, spelled
from mi_core.labelled import visible

__all__ = ["page", "view"]

NOTE = "Strength 1 adds the vector as it is; what a layer's vector is to the activation there is its relative length."


def view(result: Any) -> RenderableType:
    """The prompt, the response of each layer to each dose, and what is written at each."""
    heats = heat_view("activation steering", result.provenance, lines(result), maps(result), found(result))
    rows = texts(result)
    if not rows:
        return heats
    parts: list[RenderableType] = [heats, Text(), Text(f"written at layer {result.layer}", "bold")]
    parts += [Text.assemble((f"{dose:>8}  ", "dim"), "  |  ".join(written)) for dose, written in rows]
    return Group(*parts)


def page(result: Any) -> Mapping[str, Any]:
    """The same for the page."""
    return {
        "lead": "What the model says when a vector is added to its activations.",
        "lines": lines(result),
        "maps": maps(result),
        "last": found(result),
        "written": f"Written at layer {result.layer}",
        "texts": texts(result),
    }


def lines(result: Any) -> list[tuple[str, str]]:
    """The prompt, its metric, and the vectors."""
    tokens = result.provenance.tokens
    more = f" and {len(tokens) - 1} more" if len(tokens) > 1 else ""
    baseline = float(result.baseline.values.mean())
    return [
        ("prompt", f"{spelled(tokens[0])}{more}   {result.baseline.name} {baseline:.2f}"),
        ("vector", result.vectors[0] + (f" and {len(result.vectors) - 1} more" if len(result.vectors) > 1 else "")),
    ]


def maps(result: Any) -> list[Map]:
    """The curve of each layer, and the metric without each direction."""
    over = ", mean over prompts" if len(result.provenance.tokens) > 1 else ""
    made = [Map(f"{result.response.name}{over}", result.response.mean("batch"), NOTE)]
    if result.removed is not None:
        note = "The layer's direction is projected out of all that is written to the stream."
        made.append(Map(f"{result.removed.name} without the direction{over}", result.removed.mean("batch"), note))
    return [*made, Map("relative length of the vector", result.relative)]


def texts(result: Any) -> list[tuple[str, list[str]]]:
    """Each dose with what is written at it."""
    doses = [f"{dose:g}" for dose in result.response.coords["strength"]]
    rows = list(zip(doses, result.texts, strict=True)) if result.texts else []
    rows += [("removed", result.texts_removed)] if result.texts_removed else []
    return [(dose, [visible(text) for text in written]) for dose, written in rows]


def found(result: Any) -> str:
    """The dose that was sought."""
    if result.found_strength is None:
        return ""
    name = result.response.name
    return f"Layer {result.layer}, strength {result.found_strength:.4g}: {name} {result.found_response:.4g}."
