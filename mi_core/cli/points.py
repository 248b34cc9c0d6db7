"""``mi points``: where a model can be read and written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mi_core.hookspecs import hookimpl
from mi_core.layer_spans import spans

if TYPE_CHECKING:
    from mi_core.names import Point
    from mi_core.protocols import Site

__all__ = ["mi_command"]

TABLE = 130
"""Characters from which on a table has room for everything."""


def points(
    model: Annotated[str, typer.Argument(help="An embedded model, a folder (./name) or a Hub id.", show_default=False)],
    pattern: Annotated[str, typer.Argument(help="Such as 'blocks.{0..2}.attn.*'.")] = "*",
) -> None:
    """List where a model can be read and written: every point with its axes, their sizes and its meaning.

    One line stands for all layers that have a point. A lone * leaves out points that are on demand: name them.
    """
    import mi_core as mi
    from mi_core.cli.console import output

    console = output()
    found = list(lines(mi.load(model).hook_points(pattern)))
    console.print(table(found) if console.width >= TABLE else listing(found))


def table(found: Iterable[tuple[str, Site]]) -> Table:
    """One line for each site."""
    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    made.add_column("point", no_wrap=True)
    made.add_column("axes", no_wrap=True)
    made.add_column("meaning", overflow="fold")
    for name, site in found:
        made.add_row(Text(name, "bold"), axes(site), meaning(site))
    return made


def listing(found: Iterable[tuple[str, Site]]) -> Group:
    """Two lines for each site, where columns would leave no room for what it means."""
    parts: list[RenderableType] = []
    for name, site in found:
        parts += [Text.assemble((name, "bold"), f"  {axes(site)}"), Padding(meaning(site), (0, 0, 0, 4))]
    return Group(*parts)


def meaning(site: Site) -> Text:
    """What a site means, and what is special about it."""
    return Text.assemble(site.meaning, *((f" [{flag}]", "dim") for flag in flags(site)))


def lines(found: Iterable[Point]) -> Iterator[tuple[str, Site]]:
    """One name for each site, in order: the layers that have it as ``{0..3}``."""
    layers: dict[int, tuple[Site, list[int | None]]] = {}
    for point in found:
        layers.setdefault(id(point.site), (point.site, []))[1].append(point.layer)
    for site, where in layers.values():
        inside = [layer for layer in where if layer is not None]
        yield (f"blocks.{spans(inside)}.{site.name}" if inside else site.name), site


def axes(site: Site) -> str:
    """The axes of a site, with the sizes that the model fixes.

    >>> from mi_core.vocabulary import site
    >>> axes(site("attn.hook_q", range(2), head=4, d_head=8))
    'batch pos head=4 d_head=8'
    """
    return " ".join(f"{dim}={site.sizes[dim]}" if dim in site.sizes else dim for dim in site.dims)


def flags(site: Site) -> list[str]:
    """What is special about reading or writing here."""
    marks = {"on demand": site.on_demand, "replaces the kernel": site.replaces_kernel}
    return [f"read-only: {site.read_only}"] * bool(site.read_only) + [mark for mark, holds in marks.items() if holds]


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi points``."""
    return points
