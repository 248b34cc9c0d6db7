"""PCA of activations in a terminal and on its page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType

from mi_analyses.heat_view import Map, heat_view

__all__ = ["page", "view"]

SIZE, MARGIN = 300.0, 20.0
"""Of a drawing, in pixels."""


@dataclass(frozen=True)
class Dot:
    """One sample in a drawing."""

    x: float
    y: float
    label: str


def view(result: Any) -> RenderableType:
    """How much of the variance each component holds."""
    return heat_view("pca", result.provenance, lines(result), maps(result))


def page(result: Any) -> Mapping[str, Any]:
    """The same, and a drawing of each layer's first two components."""
    return {
        "lead": f"Principal components of {result.site}, one sample for each prompt.",
        "lines": lines(result),
        "maps": maps(result),
        "last": "",
        "drawings": drawings(result),
        "size": SIZE,
    }


def lines(result: Any) -> list[tuple[str, str]]:
    """What was decomposed."""
    return [("samples", f"{len(result.labels)} prompts at {result.site}, {result.mean.shape[1]} dims")]


def maps(result: Any) -> list[Map]:
    """The shares of the variance."""
    return [Map("share of the variance", result.share)]


def drawings(result: Any) -> list[tuple[str, str, list[Dot]]]:
    """For each layer: its heading, what the axes are, and where the samples lie. None where there is one component."""
    if result.scores.shape[2] < 2:
        return []
    found = []
    for layer in result.scores.coords["layer"]:
        points = result.scores.sel(layer=layer).values[:, :2]
        share = 100 * result.share.sel(layer=layer).values[:2]
        # one scale for both axes, so that rings stay round
        scale = (SIZE / 2 - MARGIN) / max(float(points.abs().max()), 1e-30)
        dots = [
            Dot(SIZE / 2 + scale * x, SIZE / 2 - scale * y, label)
            for (x, y), label in zip(points.tolist(), result.labels, strict=True)
        ]
        axes = f"across: component 1 ({share[0]:.0f} %), up: component 2 ({share[1]:.0f} %)"
        found.append((f"layer {layer}", axes, dots))
    return found
