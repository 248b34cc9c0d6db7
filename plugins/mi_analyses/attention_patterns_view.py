"""Attention patterns in a terminal and on their page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType

from mi_analyses.heat_view import Map, heat_view, spelled
from mi_core.labelled import visible

__all__ = ["page", "view"]

NOTES = {
    "signed": "the weights themselves, blue with the value's sign and red against it",
    "absolute": "sizes without signs, each row's sum to one",
    "positive": "positive weights, each row's sum to one",
    "share": "the share of what is read, each row's sum to one",
}


def view(result: Any) -> RenderableType:
    """The pattern itself of a single head, the summaries of several."""
    tokens = result.provenance.tokens
    more = f" and {len(tokens) - 1} more" if len(tokens) > 1 else ""
    lines = [("prompt", spelled(tokens[0]) + more)]
    if note(result):
        lines.append(("view", note(result)))
    single = result.pattern.shape[:2] == (1, 1)
    maps = [Map(place(result), result.pattern.at_place("batch", 0).at_place("head", 0).at_place("layer", 0))]
    whole = (maps if single else summaries(result)) + routes(result)
    return heat_view("attention", result.provenance, lines, whole)


def place(result: Any) -> str:
    """Which head it is."""
    return f"layer {result.pattern.coords['layer'][0]}, head {result.pattern.coords['head'][0]}: query by key"


def summaries(result: Any) -> list[Map]:
    """The five summaries, means over rows."""
    arrays = (result.entropy, result.distance, result.to_first, result.to_self, result.to_previous)
    return [Map(f"{a.name} ({a.unit})" if a.unit != "probability" else a.name, a.mean("batch")) for a in arrays]


def routes(result: Any) -> list[Map]:
    """From the last token of the first row to each span, where spans were named."""
    if result.to_spans is None:
        return []
    last = len(result.provenance.tokens[0]) - 1
    array = result.to_spans.at_place("batch", 0).at_place("query_pos", last)
    return [Map(f"attention of the last token to {name}", array.sel(span=name)) for name in array.coords["span"]]


def page(result: Any) -> Mapping[str, Any]:
    """Each row's patterns for the drawing, and the summaries."""
    rows = []
    for row, tokens in enumerate(result.provenance.tokens):
        part = result.pattern.at_place("batch", row).values[..., : len(tokens), : len(tokens)]
        weights = [[[[round(w, 4) for w in q] for q in head] for head in layer] for layer in part.tolist()]
        rows.append({"tokens": [visible(token) for token in tokens], "weights": weights})
    labels = {"layers": list(result.pattern.coords["layer"]), "heads": list(result.pattern.coords["head"])}
    signed = result.pattern.unit != "probability"
    return {
        "rows": rows,
        "labels": labels,
        "maps": [*summaries(result), *routes(result)],
        "note": note(result),
        "signed": signed,
    }


def note(result: Any) -> str:
    """What the weights are, where they are not a pattern as it is."""
    if result.of_attention:
        return "" if result.view == "signed" else f"Weights are shown as: {NOTES[result.view]}."
    return f"Effective attention of recurrent layers: {NOTES[result.view]}."
