"""Attention knockout in a terminal and on its page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from rich.console import RenderableType

from mi_analyses.heat_view import Map, heat_view, place_of, spelled
from mi_core.labelled import Labelled, visible

__all__ = ["page", "view"]


def view(result: Any) -> RenderableType:
    """The prompt and its answer, what each cut does to it, and the worst in words."""
    return heat_view("attention knockout", result.provenance, lines(result), maps(result), worst(result))


def page(result: Any) -> Mapping[str, Any]:
    """The same for the page."""
    return {
        "lead": "What the model says next when attention edges are cut.",
        "lines": lines(result),
        "maps": maps(result),
        "last": worst(result),
    }


def lines(result: Any) -> list[tuple[str, str]]:
    """The prompt, what is said without a cut, and what is cut."""
    tokens = result.provenance.tokens
    more = f" and {len(tokens) - 1} more" if len(tokens) > 1 else ""
    share, rank = float(result.whole_probability.values[0]), int(result.whole_rank.values[0])
    window = f", {result.window} layers at a time" if result.window > 1 else ""
    return [
        ("prompt", spelled(tokens[0]) + more),
        ("answer", f"{visible(result.answer[0])}   {100 * share:.1f}%, {rank} tokens above it"),
        ("cut", result.cut + window),
    ]


def maps(result: Any) -> list[Map]:
    """The three changes, means over rows."""
    over = ", mean over prompts" if len(result.answer) > 1 else ""
    return [
        Map(f"{array.name}{over}", shown(array), note)
        for array, note in (
            (result.probability, "Negative: the cut takes the answer away."),
            (result.rank, "How many more tokens are above the answer."),
            (result.kl, "nats, from the whole model's distribution."),
        )
    ]


def shown(array: Labelled) -> Labelled:
    """The mean over rows."""
    return array.mean("batch")


def worst(result: Any) -> str:
    """The cut with the largest KL."""
    kl = shown(result.kl)
    place = int(torch.argmax(kl.values.flatten())) if kl.values.numel() else 0
    lost = float(shown(result.probability).values.flatten()[place])
    nats = float(kl.values.flatten()[place])
    return f"Largest change: cut at {place_of(kl, place)}: probability {lost:+.3f}, KL {nats:.2f}."
