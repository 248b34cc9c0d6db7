"""What regions look like in a terminal and on their page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.console import RenderableType
from rich.table import Table

__all__ = ["page", "view"]

SHOWN: Final = 12


def view(result: Any) -> RenderableType:
    """The largest regions: which units are on at each step, and the outputs as functions of the numbers."""
    count, steps, _ = result.pattern.shape
    how = "all of them, exact shares" if result.exact else f"of random inputs; covers about {result.covered:.2%}"
    table = Table(title=f"{count} linear regions ({how})", title_justify="left")
    table.add_column("share", justify="right")
    for step in range(steps):
        table.add_column(f"step {step}")
    table.add_column("outputs")
    for region in range(min(count, SHOWN)):
        units = ["".join("●" if on else "·" for on in row) for row in result.pattern.values[region].tolist()]
        table.add_row(f"{float(result.share.values[region]):.2%}", *units, formula(result.maps.values[region].tolist()))
    if count > SHOWN:
        table.caption = f"and {count - SHOWN} more"
    return table


def page(result: Any) -> Mapping[str, Any]:
    """What the page shows first."""
    return {"lead": f"{result.share.shape[0]} regions, which hold {result.covered:.2%} of inputs."}


def formula(rows: list[list[float]]) -> str:
    """Each output as a sum over the numbers."""
    return "\n".join(
        f"y{out} = " + " ".join(f"{weight:+.2f} x{index}" for index, weight in enumerate(row) if abs(weight) > 5e-3)
        for out, row in enumerate(rows)
    )
