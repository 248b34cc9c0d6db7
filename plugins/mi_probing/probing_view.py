"""Probing in a terminal and on its page."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

from rich.console import RenderableType

from mi_analyses.heat_view import Map, heat_view, place_of
from mi_core.labelled import Labelled, visible
from mi_probing.curves import Chart, Curve

__all__ = ["page", "view"]

PROBE, CONTROL, RANDOM, SHUFFLED, CHANCE = "#0f766e", "#b4530a", "#7c3aed", "#64748b", "#94a3b8"


def view(result: Any) -> RenderableType:
    """The scores and what they are held against."""
    return heat_view("probing", result.provenance, lines(result), maps(result), verdict(result))


def page(result: Any) -> Mapping[str, Any]:
    """The same, with curves over the layers and how right the best probe's odds are."""
    return {
        "lead": f"What {result.method} probes read at {result.site or 'the given activations'}, on held-out groups.",
        "lines": lines(result),
        "maps": [*maps(result), Map("penalty", result.penalty)],
        "last": verdict(result),
        "charts": [*charts(result), *calibration(result)],
    }


def lines(result: Any) -> list[tuple[str, str]]:
    """The classes, the parts, and the guess without activations."""
    train, validation, test = result.examples
    parts = f"{train} to fit" + (f", {validation} to choose" if validation else "") + f", {test} to test"
    said = ", ".join(visible(name) for name in result.classes) or "numbers"
    return [
        ("labels", said),
        ("examples", f"{parts}, in {result.groups} groups"),
        ("probe", result.method),
        ("chance", f"{result.chance:.3f}"),
    ]


def maps(result: Any) -> list[Map]:
    """What was measured, the score first."""
    low, high = (result.interval.sel(bound=end) for end in ("low", "high"))
    wide = float((high.values - low.values).nan_to_num().mean())
    made = [Map(result.score.name, result.score, f"On held-out groups; 95 % intervals are {wide:.2f} wide on average.")]
    if result.control is not None:
        note = "Accuracy on seen types, less that of labels drawn at random for each type."
        made += [Map("control task", result.control), Map("selectivity", result.selectivity, note)]
    if result.shuffled is not None:
        made.append(Map("shuffled labels, mean", result.shuffled.mean("shuffle")))
    if result.random_model is not None:
        made.append(Map("random model", result.random_model, "The same architecture with fresh weights."))
    if result.bits is not None:
        made.append(Map("compression", result.compression, f"Times shorter than {result.uniform_bits:.0f} bits."))
    if result.calibration_error is not None:
        made.append(Map("calibration error", result.calibration_error))
    return made


def verdict(result: Any) -> str:
    """The best cell, with its interval."""
    best = int(result.score.values.flatten().argmax())
    low, high = result.interval.values.reshape(-1, 2)[best].tolist()
    where = f" at {place_of(result.score, best)}" if result.score.dims else ""
    return f"Best: {result.score.values.flatten()[best]:.3f} ({low:.3f} to {high:.3f}){where}."


def charts(result: Any) -> list[Chart]:
    """For each cell of the other axes, the score over the layers. None without an axis of layers."""
    if "layer" not in result.score.dims:
        return []
    others = [dim for dim in result.score.dims if dim != "layer"]
    return [
        chart(result, dict(zip(others, labels, strict=True)))
        for labels in product(*(result.score.coords[dim] for dim in others))
    ]


def chart(result: Any, at: Mapping[str, Any]) -> Chart:
    """One chart."""

    def line(array: Labelled) -> list[float]:
        return [float(value) for value in array.sel(**at).values.tolist()]

    layers = result.score.coords["layer"]
    band = (line(result.interval.sel(bound="low")), line(result.interval.sel(bound="high")))
    curves = [Curve(result.score.name, line(result.score), PROBE, band=band)]
    if result.control is not None:
        curves += [Curve("seen types", line(result.seen), PROBE, dashed=True)]
        curves += [Curve("control task", line(result.control), CONTROL)]
    if result.random_model is not None:
        curves.append(Curve("random model", line(result.random_model), RANDOM))
    if result.shuffled is not None:
        each = result.shuffled.sel(**at).values
        ends = (each.amin(-1).tolist(), each.amax(-1).tolist())
        curves.append(Curve("shuffled labels", line(result.shuffled.mean("shuffle")), SHUFFLED, band=ends))
    curves.append(Curve("chance", [result.chance] * len(layers), CHANCE, dashed=True))
    heading = ", ".join(f"{dim} {visible(label)}" for dim, label in at.items()) or result.score.name
    return Chart(heading, "layer", [visible(layer) for layer in layers], curves)


def calibration(result: Any) -> list[Chart]:
    """Confidence against accuracy, of the cell with the best score."""
    if result.reliability is None:
        return []
    best = int(result.score.values.flatten().argmax())
    bins = len(result.reliability.coords["bin"])
    right = result.reliability.values.reshape(-1, bins, 3)[best, :, 1].tolist()
    middles = [(at + 0.5) / bins for at in range(bins)]
    curves = [Curve("accuracy", right, PROBE), Curve("as confident", middles, CHANCE, dashed=True)]
    return [Chart("calibration of the best probe", "confidence", [f"{middle:.2f}" for middle in middles], curves)]
