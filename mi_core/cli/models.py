"""``mi models``: what is installed, and what was verified of it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import typer

from mi_core import plugins, registry
from mi_core.errors import UnknownPlugin
from mi_core.hookspecs import hookimpl

__all__ = ["mi_command"]

FAMILIES = "mi_core.families"
ABOUT = ("how", "command", "largest_difference")
"""What a page says of its checks, beside the checks themselves."""


def models(
    name: Annotated[str | None, typer.Argument(help="A family or an embedded model: its whole page.")] = None,
) -> None:
    """List what is installed: embedded models, families of models and what was verified of them, broken plugins."""
    if name is not None:
        show_page(name)
        return
    from rich.table import Table
    from rich.text import Text

    from mi_core.cli.console import output

    console = output()
    problems = plugins.report()
    broken = {(error.data.get("group"), error.data.get("name")) for error in problems}
    pages = registry.pages()
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for heading in ("name", "kind", "from", "within", ""):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("name", "from", "kind"))
    for page in pages.values():
        if page.embedded:
            summary = Text(str(page.data.get("summary", "")))
            table.add_row(Text(page.name, "bold"), "embedded model", page.distribution, "", summary)
    for family, distribution in plugins.names(FAMILIES).items():
        verified = pages[family].data.get("verified", {}) if family in pages else {}
        note = Text("broken", "red") if (FAMILIES, family) in broken else Text(", ".join(checked(verified)))
        table.add_row(Text(family, "bold"), "family", distribution, difference(verified), note or Text("not verified"))
    for page in pages.values():
        for family, why in page.data.get("not_read", {}).items():
            if family not in plugins.names(FAMILIES):
                table.add_row(Text(family, "dim"), Text("not read", "dim"), page.distribution, "", str(why))
    console.print(table)
    console.print("within: the largest difference from the reference, float32, random weights.", style="dim")
    console.print("mi models NAME shows what else was verified, and how.", style="dim")
    for error in problems:
        console.print(Text.assemble((f"{type(error).__name__}:", "bold red"), f" {error}"))


def difference(verified: Mapping[str, Any]) -> str:
    """The largest difference that a page has."""
    found = verified.get("largest_difference", {}).values()
    return f"{max(found):.0e}" if found else ""


def checked(verified: Mapping[str, Any]) -> list[str]:
    """What was compared, in a word each."""
    compared = {word_for(name): None for name in verified.get("largest_difference", {})}
    others = {name.replace("_", " "): None for name in verified if name not in ABOUT}
    return list(compared | others)


def word_for(name: str) -> str:
    """A comparison in a word.

    >>> word_for("patterns of padded rows"), word_for("logits from memory"), word_for("streams")
    ('padding', 'cache', 'streams')
    """
    return "padding" if "padded" in name else "cache" if "memory" in name else name


def show_page(name: str) -> None:
    """One page of the registry, as it is."""
    from rich.text import Text

    from mi_core.cli.console import output

    page = registry.page(name)
    if page is None:
        close = difflib.get_close_matches(name, registry.pages(), n=1)
        hint = f"Did you mean {close[0]!r}?" if close else "'mi models' lists what there is."
        raise UnknownPlugin(f"the registry has no page {name!r}. {hint}", name=name)
    for indent, key, value in flat(page.data):
        line = (f"{'  ' * indent}{key}", "bold" if value is None else "dim")
        output().print(Text.assemble(line, "" if value is None else f"  {value}"))


def flat(data: Mapping[str, Any], indent: int = 0) -> Iterator[tuple[int, str, Any]]:
    """A page line by line: how deep, the key, and the value (None of what has parts)."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield indent, key, None
            yield from flat(value, indent + 1)
        else:
            yield indent, key, f"{value:g}" if isinstance(value, float) else value


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi models``."""
    return models
