"""``mi dictionary inspect``: what a dictionary is, and which conventions reading it applies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from mi_core.hookspecs import hookimpl

__all__ = ["mi_command"]


def inspect(
    ref: Annotated[
        str,
        typer.Argument(
            help="A folder, a file, owner/name[/folder][@revision], hf://... or a name.", show_default=False
        ),
    ],
    layer: Annotated[int | None, typer.Option(help="One layer of a set.", show_default=False)] = None,
    k: Annotated[int | None, typer.Option(help="Active features, where the files do not say it.")] = None,
    units: Annotated[str, typer.Option(help="For Llama Scope: saelens or native.")] = "saelens",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.", show_default=False)] = None,
    statistics: Annotated[bool, typer.Option("--statistics", help="Measure every row of the decoder.")] = False,
) -> None:
    """Say what a dictionary is and how it is read: format, sizes, points, conventions, and what looks odd.

    Exits with 2 where it cannot be read, and says why.
    """
    from rich.text import Text

    from mi_core.cli.console import output
    from mi_dictionaries.inspecting import inspect as look

    found = look(ref, layer=layer, k=k, feature_units=units, revision=revision, statistics=statistics)
    console = output()
    for label, text in found.lines:
        console.print(Text.assemble((f"{label:<12}", "dim"), text), soft_wrap=True)
    for text in found.warnings:
        console.print(Text.assemble((f"{'odd':<12}", "bold yellow"), text), soft_wrap=True)


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi dictionary inspect``."""
    return inspect
