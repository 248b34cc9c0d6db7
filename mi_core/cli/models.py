"""``mi models``: what is installed."""

from __future__ import annotations

from collections.abc import Callable

from mi_core import plugins, registry
from mi_core.hookspecs import hookimpl

__all__ = ["mi_command"]

FAMILIES = "mi_core.families"


def models() -> None:
    """List what is installed: embedded models, families of models, and plugins that are broken."""
    from rich.table import Table
    from rich.text import Text

    from mi_core.cli.console import output

    console = output()
    problems = plugins.report()
    broken = {(error.data.get("group"), error.data.get("name")) for error in problems}
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for heading in ("name", "kind", "from", ""):
        table.add_column(heading, overflow="fold", no_wrap=heading == "name")
    for page in registry.pages().values():
        if page.embedded:
            table.add_row(
                Text(page.name, "bold"), "embedded model", page.distribution, Text(str(page.data.get("summary", "")))
            )
    for name, distribution in plugins.names(FAMILIES).items():
        note = Text("broken", "red") if (FAMILIES, name) in broken else Text()
        table.add_row(Text(name, "bold"), "family", distribution, note)
    console.print(table)
    for error in problems:
        console.print(Text.assemble((f"{type(error).__name__}:", "bold red"), f" {error}"))


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi models``."""
    return models
