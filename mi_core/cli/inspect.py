"""``mi inspect``: what a checkpoint is, from its headers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from mi_core.hookspecs import hookimpl

__all__ = ["mi_command"]


def inspect(
    model: Annotated[str, typer.Argument(help="An embedded model, a folder (./name) or a Hub id.", show_default=False)],
    device_map: Annotated[
        str | None, typer.Option(help="Say what would go where: auto, balanced or sequential.", show_default=False)
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(help="What each device may hold, such as 'cuda:0=10GB,cpu=30GB'.", show_default=False),
    ] = None,
    dtype: Annotated[str, typer.Option(help="For --device-map: auto (the checkpoint's), float32, bfloat16.")] = "auto",
    quantise: Annotated[str | None, typer.Option(help="Its size with matrices in eight bits: int8 or float8.")] = None,
) -> None:
    """Say what a checkpoint is, whether it would load, and how much memory it would take; no weight is read.

    With --device-map: what would go where, on devices that need not be here, and what comes and goes for each call.

    Exits with 1 where it would not load, and says why.
    """
    from rich.text import Text

    from mi_core.cli.console import output
    from mi_core.inspecting import inspect as look

    found = look(model, device_map=device_map, max_memory=limits(max_memory), dtype=dtype, quantise=quantise)
    console = output()

    def line(label: str, text: str, style: str = "") -> None:
        console.print(Text.assemble((f"{label:<11}", "dim"), (text, style)), soft_wrap=True)

    line("checkpoint", f"{found.where}, model_type {found.model_type!r}")
    line("tensors", f"{found.tensors}, {size(found.stored)} as stored")
    if found.dequantised:
        line("weights", found.dequantised)
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
    if found.quantised:
        line(f"in {quantise}", ", ".join(f"{size(count)} in {dtype}" for dtype, count in found.quantised.items()))
    if found.cache is not None:
        line(
            "each token",
            f"{size(4 * found.cache)} of keys and values in float32, {size(2 * found.cache)} in half of it",
        )
    if found.placement is not None:
        from mi_core.explaining import use_words

        for use in found.placement.uses:
            line("placed", f"{use_words(use, found.placement.main)}, in {found.placement.dtype}")
        line("each pass", f"{size(found.placement.brought)} of weights come to {found.placement.main} and go")


def limits(text: str | None) -> dict[Any, str] | None:
    """``"cuda:0=10GB,cpu=30GB"`` as a mapping.

    >>> limits("cuda:0=10GB, cpu=30GB")
    {'cuda:0': '10GB', 'cpu': '30GB'}
    """
    if text is None:
        return None
    pairs = [pair.strip().rpartition("=") for pair in text.split(",")]
    if not all(place and amount for place, _, amount in pairs):
        raise typer.BadParameter(f"{text!r}: say 'cuda:0=10GB,cpu=30GB'", param_hint="--max-memory")
    return {int(place) if place.isdecimal() else place: amount for place, _, amount in pairs}


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
