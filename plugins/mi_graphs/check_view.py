"""The check of a graph in a terminal and on its page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mi_core.labelled import visible

__all__ = ["page", "view"]


def view(result: Any) -> RenderableType:
    """A line for each feature, at the likeliest logit: what the graph says, and what happens."""
    logit = visible(result.edge.coords["logit"][0])
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, pad_edge=False, header_style="dim")
    table.add_column(f"feature {scaled(result.factor)}", overflow="fold")
    columns = (result.edge, result.frozen, result.along_paths, result.real)
    for column in columns:
        table.add_column(column.name, justify="right")
    for at, feature in enumerate(result.edge.coords["feature"]):
        table.add_row(feature, *(f"{float(column.values[at, 0]):+.3f}" for column in columns))
    head = Text.assemble(("change of the logit of ", ""), (logit, "bold"))
    return Group(head, table, Text(said(result), "dim"))


def scaled(factor: float) -> str:
    """What was done to each feature."""
    return "ablated" if factor == 0 else f"times {factor:g}"


def said(result: Any) -> str:
    """How near the graph comes."""
    worst = max(float(result.deviation.values.max()), 1e-12)
    bound = 10.0 ** math.ceil(math.log10(worst))
    text = f"Edges are off by less than {bound:g} of the largest, over all that a feature feeds."
    if result.edge.values.numel() > 1:
        text += f" What paths say and what happens correlate at {result.agreement():.2f}."
    return text


def page(result: Any) -> Mapping[str, Any]:
    """A sentence above the arrays."""
    return {"lead": f"How logits change with each feature {scaled(result.factor)}. {said(result)}"}
