"""``mi inspect``: what a checkpoint is, from its headers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from mi_core.hookspecs import hookimpl

__all__ = ["mi_command"]


def inspect(
    model: Annotated[str, typer.Argument(help="An embedded model, a folder (./name) or a Hub id.", show_default=False)],
) -> None:
    """Say what a checkpoint is, whether it would load, and how much memory it would take; no weight is read.

    Exits with 1 where it would not load, and says why.
    """
    from rich.text import Text

    from mi_core.cli.console import output
    from mi_core.inspecting import inspect as look

    found = look(model)
    console = output()

    def line(label: str, text: str, style: str = "") -> None:
        console.print(Text.assemble((f"{label:<11}", "dim"), (text, style)), soft_wrap=True)

    line("checkpoint", f"{found.where}, model_type {found.model_type!r}")
    line("tensors", f"{found.tensors}, {size(found.stored)} as stored")
    if found.problem is not None:
        line("verdict", "would not load", "bold red")
        line("", f"{type(found.problem).__name__}: {found.problem}")
        raise typer.Exit(1)
    line("verdict", f"loads: {found.read_as or 'every tensor and every config key has its place'}", "green")
    line("sizes", ", ".join(f"{name} {value}" for name, value in found.sizes.items() if value is not None))
    for text in found.layers:
        line("layers", text)
    for pattern, why in found.dropped.items():
        line("dropped", f"{pattern}: {why}")
    line("parameters", f"{found.parameters:,}")
    line("memory", ", ".join(f"{size(count)} in {dtype}" for dtype, count in found.memory.items()))
    if found.cache is not None:
        line(
            "each token",
            f"{size(4 * found.cache)} of keys and values in float32, {size(2 * found.cache)} in half of it",
        )


def size(count: int) -> str:
    """Bytes in words.

    >>> size(500), size(2_888_192)
    ('500 B', '2.9 MB')
    """
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi inspect``."""
    return inspect
