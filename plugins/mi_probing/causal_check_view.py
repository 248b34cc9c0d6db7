"""Causal checks in a terminal and on their page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType

from mi_analyses.heat_view import Map, heat_view, spelled
from mi_probing.curves import Chart, Curve
from mi_probing.probing_view import PROBE, SHUFFLED

__all__ = ["page", "view"]


def view(result: Any) -> RenderableType:
    """The response to each dose along each direction."""
    return heat_view("causal check", result.provenance, lines(result), maps(result), verdict(result))


def page(result: Any) -> Mapping[str, Any]:
    """The same with a curve of each direction."""
    return {
        "lead": "What moving activations along a probe's direction does to the answer, beside random directions.",
        "lines": lines(result),
        "maps": maps(result),
        "last": verdict(result),
        "charts": [chart(result)],
    }


def lines(result: Any) -> list[tuple[str, str]]:
    """The probe, the prompt and the length of a dose."""
    tokens = result.provenance.tokens
    more = f" and {len(tokens) - 1} more" if len(tokens) > 1 else ""
    return [("probe", result.probe), ("prompt", spelled(tokens[0]) + more), ("gap", f"{result.gap:.3f} units")]


def maps(result: Any) -> list[Map]:
    """Doses, slopes, and the metric without each direction; means over prompts."""
    return [
        Map(result.response.name, result.response.mean("batch"), "Dose 1 is the distance between the classes' means."),
        Map(result.effect.name, result.effect),
        Map(result.removed.name, result.removed.mean("batch")),
    ]


def verdict(result: Any) -> str:
    """What one gap does, and what it does along random directions."""
    effect = result.effect.values
    most = float(effect[1:].abs().max())
    own = float(effect[0])
    return f"One gap along the probe moves the metric by {own:.2f}, along random directions by at most {most:.2f}."


def chart(result: Any) -> Chart:
    """The mean response by dose."""
    means = result.response.values.mean(-1)
    doses = result.response.coords["gaps"]
    curves = [
        Curve(
            "probe" if not at else "random directions" if at == 1 else "",
            row.tolist(),
            SHUFFLED if at else PROBE,
            dashed=bool(at),
        )
        for at, row in enumerate(means)
    ]
    low, high = float(means.min()), float(means.max())
    spare = 0.05 * max(high - low, 1e-6)
    heading = f"{result.response.name}, mean over prompts"
    return Chart(heading, "gaps", [f"{dose:g}" for dose in doses], curves, low - spare, high + spare)
