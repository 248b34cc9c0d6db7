"""Recurrent states in a terminal and on their page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from rich.console import RenderableType

from mi_analyses.heat_view import Map, heat_view, spelled
from mi_core.labelled import Labelled, visible

__all__ = ["page", "view"]


def view(result: Any) -> RenderableType:
    """The maps of the first row, and how far back it reaches in words."""
    return heat_view("recurrent state", result.provenance, lines(result), maps(result), farthest(result))


def page(result: Any) -> Mapping[str, Any]:
    """The same for the page, with every position."""
    whole = [Map("norm of the state behind each position", first_row(result.norm))]
    whole += [] if result.is_mean else [Map("effective rank behind each position", first_row(result.rank))]
    whole.append(Map("part of each token's write that is left later", first_row(result.survival)))
    lead = "What each recurrent layer keeps of the tokens that it has read, and for how long."
    return {"lead": lead, "lines": lines(result), "maps": [*maps(result), *whole], "last": farthest(result)}


def lines(result: Any) -> list[tuple[str, str]]:
    """The prompt, and what kind of state it is."""
    tokens = result.provenance.tokens
    more = f" and {len(tokens) - 1} more" if len(tokens) > 1 else ""
    kind = "a mean of the values, in each channel" if result.is_mean else "a matrix for each head"
    return [("prompt", spelled(tokens[0]) + more), ("state", kind)]


def maps(result: Any) -> list[Map]:
    """States behind the first row's last token, half-lives, writes, and what they are worth."""
    last = len(result.provenance.tokens[0]) - 1
    at_end = first_row(result.norm).at_place("pos", last)
    found = [Map("norm of the state behind the prompt", at_end)]
    if not result.is_mean:
        found.append(Map("its effective rank", first_row(result.rank).at_place("pos", last)))
    left = first_row(result.survival).at_place("later", last).mean("head")
    size = "share of the mean that each token comes in with" if result.is_mean else "size of what each token writes"
    return [
        *found,
        Map("half-life of channels (tokens): median", result.half_life.sel(quantile="50%")),
        Map(f"{size}, mean over heads", first_row(result.write).mean("head")),
        Map("part of it that is left behind the last token, mean over heads", left),
        Map("KL without a token's write in one layer (nats)", first_row(result.removal)),
        Map("KL without it in all layers (nats)", first_row(result.removal_everywhere)),
    ]


def first_row(array: Labelled) -> Labelled:
    """The part of the first row."""
    return array.at_place("batch", 0)


def farthest(result: Any) -> str:
    """How far back a write is missed."""
    back = int(result.reach.values[0])
    if back < 0:
        return f"No token's write is missed by {result.threshold:g} nats."
    kl = result.removal_everywhere.values[:, 0]
    place = int(torch.argmax(kl))
    where = result.removal_everywhere.coords["pos"][place]
    token = visible(where[1]) if isinstance(where, tuple) else f"position {where}"
    return (
        f"Writes are missed ({result.threshold:g} nats or more) up to {back} tokens back; most that of {token}, "
        f"{float(kl[place]):.3g} nats."
    )
