"""Head circuits in a terminal and on their page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from rich.console import RenderableType

from mi_analyses.heat_view import Map, heat_view

__all__ = ["page", "view"]

SHOWN = 6
"""Pairs of heads that are named for each kind of composition."""


def view(result: Any) -> RenderableType:
    """Both scores of each head, and the pairs that compose most."""
    return heat_view("head circuits", result.provenance, lines(result), maps(result))


def page(result: Any) -> Mapping[str, Any]:
    """The same for the page."""
    lead = "What heads' weights alone copy, match and feed each other: gains of norms are counted, positions are not."
    return {"lead": lead, "lines": lines(result), "maps": maps(result), "last": ""}


def lines(result: Any) -> list[tuple[str, str]]:
    """The pairs that compose most, kind by kind."""
    return [(f"{kind} reads", largest(result, kind)) for kind in result.composition.coords["kind"]]


def largest(result: Any, kind: str) -> str:
    """The pairs with the largest composition of one kind."""
    part = result.composition.sel(kind=kind)
    values = part.values.nan_to_num(nan=-torch.inf).flatten()
    best = values.topk(min(SHOWN, len(values)))
    writers, readers = part.coords["writer"], part.coords["reader"]
    found = [
        f"{writers[place // len(readers)]} > {readers[place % len(readers)]} {value:.3f}"
        for place, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        if value > -torch.inf
    ]
    return ", ".join(found) or "one layer alone composes with nothing"


def maps(result: Any) -> list[Map]:
    """One map for each score."""
    copying = "1: says the tokens that it reads; -1: says others; a random head is near 0."
    matching = "1: looks for the token that it stands on; -1: looks away from it. Without rotary or learned positions."
    return [Map("copying (OV)", result.copying, copying), Map("matching (QK)", result.matching, matching)]
