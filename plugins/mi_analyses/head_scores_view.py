"""Head scores in a terminal and on their page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType

from mi_analyses.heat_view import Map, heat_view

__all__ = ["page", "view"]


def view(result: Any) -> RenderableType:
    """One table for each kind, and the best head of each in words."""
    return heat_view("head scores", result.provenance, lines(result), maps(result), best(result))


def page(result: Any) -> Mapping[str, Any]:
    """The same for the page."""
    lead = "How much attention each head pays to what its kind looks at, on random sequences that come twice."
    return {"lead": lead, "lines": lines(result), "maps": maps(result), "last": best(result)}


def lines(result: Any) -> list[tuple[str, str]]:
    """On what the scores were taken."""
    rows = f"{result.sequences} random sequences of {result.length} tokens, each twice; seed {result.seed}"
    view = [] if result.view == "signed" else [("view", f"{result.view} weights of recurrent layers")]
    return [("rows", rows), *view]


def maps(result: Any) -> list[Map]:
    """One map for each kind."""
    return [Map(str(kind), result.scores.sel(kind=kind)) for kind in result.scores.coords["kind"]]


def best(result: Any) -> str:
    """The best head of each kind."""
    found = []
    for kind in result.scores.coords["kind"]:
        part = result.scores.sel(kind=kind)
        layer, head = divmod(int(part.values.argmax()), part.shape[1])
        name = f"L{part.coords['layer'][layer]}H{part.coords['head'][head]}"
        found.append(f"{kind} {name} {float(part.values[layer, head]):.3f}")
    return f"Best: {', '.join(found)}."
