"""Features in a terminal, on an index page, and each on a page of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from mi_dictionaries.feature_tops import EDGES

__all__ = ["feature_page", "page", "view"]

SHOWN: Final = 20
WIDTH: Final = 40.0
"""Of a bar of a histogram, in pixels."""


def view(result: Any) -> RenderableType:
    """A line for each feature: how often it is active, what it promotes, and its first example."""
    table = Table(title=heading(result), title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("feature", "density", "largest"):
        table.add_column(name, justify="right")
    table.add_column("promotes", overflow="fold")
    table.add_column("most active", overflow="fold")
    for line in lines(result)[:SHOWN]:
        table.add_row(
            str(line["feature"]), f"{line['density']:.2%}", f"{line['largest']:.2f}", line["promotes"], first(line)
        )
    if len(result.features) > SHOWN:
        table.caption = f"and {len(result.features) - SHOWN} more"
    return table


def first(line: Mapping[str, Any]) -> Text:
    """The first example, its own token bold."""
    if not line["examples"]:
        return Text("")
    tokens, _, at, _ = line["examples"][0]
    left = "".join(tokens[max(0, at - 6) : at])
    return Text.assemble(left, (tokens[at], "bold"), "".join(tokens[at + 1 : at + 3]))


def page(result: Any) -> Mapping[str, Any]:
    """The index: every feature that is reported."""
    return {"heading": heading(result), "lines": lines(result)}


def feature_page(result: Any, feature: int) -> str:
    """The page of one feature."""
    from mi_core.pages import render

    number = result.features.index(feature)
    line = lines(result)[number]
    return render(
        "mi_dictionaries/feature.html",
        result=result,
        title=f"Feature {feature}",
        line=line,
        mean=float(result.mean.values[number]),
        bars=bars(result.histogram.values[number].tolist()),
        suppressed=result.suppressed[number],
        neighbours=result.neighbours[number],
        known=set(result.features),
        examples=[shaded(example, line["largest"]) for example in line["examples"]],
    )


def heading(result: Any) -> str:
    """What was looked at."""
    return (
        f"{len(result.features)} of {result.d_sae:,} features at {result.point}, {result.rows:,} tokens; "
        f"{result.dead:,} were active nowhere"
    )


def lines(result: Any) -> list[dict[str, Any]]:
    """What is said of each feature in one line."""
    return [
        {
            "feature": feature,
            "density": float(result.density.values[at]),
            "largest": float(result.largest.values[at]),
            "promotes": " ".join(token.strip() or token for token, _ in result.promoted[at][:5]),
            "promoted": result.promoted[at],
            "examples": result.examples[at],
        }
        for at, feature in enumerate(result.features)
    ]


def bars(counts: list[int]) -> list[dict[str, Any]]:
    """A histogram's bars between the first and the last that is not empty."""
    filled = [at for at, count in enumerate(counts) if count]
    if not filled:
        return []
    edges = [float("-inf"), *EDGES.tolist(), float("inf")]
    most = max(counts)
    return [
        {
            "height": 100 * counts[at] / most,
            "count": counts[at],
            "low": f"{2 ** edges[at]:.3g}",
            "high": f"{2 ** edges[at + 1]:.3g}" if math.isfinite(edges[at + 1]) else "more",
        }
        for at in range(filled[0], filled[-1] + 1)
    ]


def shaded(example: tuple[Any, ...], largest: float) -> dict[str, Any]:
    """An example with the share of the largest activation at each token; None where the token was not kept."""
    tokens, activations, at, document = example
    shares = [None if value is None else min(1.0, abs(value) / (largest or 1.0)) for value in activations]
    return {
        "tokens": list(zip(tokens, shares, activations, strict=True)),
        "at": at,
        "document": document,
        "value": activations[at],
    }
