"""Activation patching in a terminal and on its page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from rich.console import RenderableType

from mi_analyses.heat_view import Map, heat_view, place_of, spelled

__all__ = ["direction", "page", "pair_lines", "several", "view"]


def view(result: Any) -> RenderableType:
    """The prompts, the effect of each patch, and the largest in words."""
    return heat_view("activation patching", result.provenance, lines(result), maps(result), strongest(result))


def page(result: Any) -> Mapping[str, Any]:
    """The same for the page, with every pair's own effects."""
    pairs = [Map("effect of each pair", result.effects)] if several(result) else []
    whole = Map("metric of each patched run", result.metric)
    return {
        "lead": f"What patching {direction(result)} at {result.site} does, in parts of what the whole prompt does.",
        "lines": lines(result),
        "maps": [*maps(result), *pairs, whole],
        "last": strongest(result),
    }


def direction(result: Any) -> str:
    """Which activations went where."""
    return "corrupt into clean (noising)" if result.noising else "clean into corrupt (denoising)"


def several(result: Any) -> bool:
    """Whether there are several pairs."""
    return len(result.clean_tokens) > 1


def lines(result: Any) -> list[tuple[str, str]]:
    """The prompts with their metrics, and what was patched."""
    window = f", {result.window} layers at a time" if result.window > 1 else ""
    return [*pair_lines(result), ("patch", f"{result.site}, {direction(result)}{window}")]


def pair_lines(result: Any) -> list[tuple[str, str]]:
    """The prompts with their metrics."""
    name = result.clean.name
    found = []
    for kind, tokens, values in (
        ("clean", result.clean_tokens, result.clean.values),
        ("corrupt", result.corrupt_tokens, result.corrupt.values),
    ):
        more = f" and {len(tokens) - 1} more" if several(result) else ""
        found.append((kind, f"{spelled(tokens[0])}{more}   {name} {float(values.mean()):.2f}"))
    return found


def maps(result: Any) -> list[Map]:
    """The mean effect, and its interval where there are several pairs."""
    note = "effect: 0 changes nothing, 1 does all that the whole other prompt does; a dot is a space."
    found = [Map("effect" if not several(result) else "effect, mean over pairs", result.effect, note)]
    if several(result):
        found.append(Map(f"interval of the mean, {100 * result.level:g} %, bootstrap over pairs", result.interval))
    return found


def strongest(result: Any) -> str:
    """The cell with the largest effect."""
    values = result.effect.values
    if not values.numel():
        return ""
    place = int(values.nan_to_num(nan=-torch.inf).argmax())
    return f"Largest effect {float(values.flatten()[place]):.2f} at {place_of(result.effect, place)}."
