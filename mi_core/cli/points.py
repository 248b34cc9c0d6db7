"""``mi points``: where a model can be read and written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from mi_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from mi_core.names import Point
    from mi_core.protocols import Site

__all__ = ["mi_command"]


def points(
    model: Annotated[str, typer.Argument(help="An embedded model, a folder (./name) or a Hub id.", show_default=False)],
    pattern: Annotated[str, typer.Argument(help="Such as 'blocks.{0..2}.attn.*'.")] = "*",
) -> None:
    """List where a model can be read and written: every point with its axes, their sizes and its meaning.

    Points that differ by layer only are one line. A lone * leaves out what is computed on demand only; name such a
    point to see it.
    """
    from rich.table import Table
    from rich.text import Text

    import mi_core as mi
    from mi_core.cli.console import output

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("point", overflow="fold", min_width=24)
    table.add_column("axes", overflow="fold", min_width=12)
    table.add_column("meaning", overflow="fold", min_width=20)
    for name, site in lines(mi.load(model).hook_points(pattern)):
        notes = Text(site.meaning)
        notes.append("".join(f" [{flag}]" for flag in flags(site)), "dim")
        table.add_row(Text(name, "bold"), axes(site), notes)
    output().print(table)


def lines(found: Iterable[Point]) -> Iterator[tuple[str, Site]]:
    """One name for each site, in order: the layers that have it as ``{0..3}``."""
    layers: dict[int, tuple[Site, list[int | None]]] = {}
    for point in found:
        layers.setdefault(id(point.site), (point.site, []))[1].append(point.layer)
    for site, where in layers.values():
        inside = [layer for layer in where if layer is not None]
        yield (f"blocks.{spans(inside)}.{site.name}" if inside else site.name), site


def spans(layers: Iterable[int]) -> str:
    """Layers as a pattern takes them.

    >>> spans([2]), spans([0, 1, 2]), spans([0, 2, 3])
    ('2', '{0..2}', '{0,2..3}')
    """
    runs = [[layer for _, layer in run] for _, run in groupby(enumerate(layers), lambda pair: pair[1] - pair[0])]
    parts = [f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return parts[0] if len(parts) == 1 and ".." not in parts[0] else "{" + ",".join(parts) + "}"


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
