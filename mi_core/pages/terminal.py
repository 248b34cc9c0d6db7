"""Results in a terminal: tables coloured by value, complete at every width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.style import Style
from rich.table import Table
from rich.text import Text

from mi_core.labelled import Labelled, visible
from mi_core.pages.heat import Heat, Strip, number, strip

__all__ = ["Bands", "Flow", "bar", "heat_table", "heated"]

EIGHTHS = " ▏▎▍▌▋▊▉"


def heated(text: str, value: float, heat: Heat) -> Text:
    """The text on the colour of the value."""
    front, back = heat.colours(value)
    return Text(f" {text} ", Style(color=f"rgb{front}".replace(" ", ""), bgcolor=f"rgb{back}".replace(" ", "")))


def bar(share: float, width: int = 10) -> str:
    """A bar that fills ``share`` of ``width`` characters, in eighths.

    >>> bar(0.5, 4), bar(1.0, 2), bar(float("nan"), 2)
    ('██  ', '██', '  ')
    """
    if not 0 <= share <= 1:
        return " " * width
    full, rest = divmod(round(share * width * 8), 8)
    return ("█" * full + (EIGHTHS[rest] if rest else "")).ljust(width)


def heat_table(array: Labelled) -> Bands | Text:
    """One or two axes as a coloured table; more axes as a sentence that says what to select."""
    if len(array.dims) > 2:
        example = ", ".join(f"{dim}={array.coords[dim][0]!r}" for dim in array.dims[:-2] if array.coords[dim])
        return Text(f"{array!r} has {len(array.dims)} axes: select all but two, such as .sel({example})")
    return Bands(strip(array), Heat.of(array), title=" · ".join(part for part in (array.name, array.unit) if part))


class Bands:
    """A table whose columns are laid out in as many bands, one below the other, as the width needs."""

    def __init__(
        self, strip: Strip, heat: Heat, title: str = "", texts: tuple[tuple[str, ...], ...] | None = None
    ) -> None:
        self.strip = strip
        self.heat = heat
        self.title = title
        self.texts = texts or tuple(tuple(number(value) for value in values) for _, values in strip.rows)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        names = [visible(label) for label in self.strip.columns]
        widths = [max(len(row) for row in (name, *texts)) + 2 for name, *texts in zip(names, *self.texts, strict=True)]
        edge = max((Text(visible(label)).cell_len for label, _ in self.strip.rows), default=0)
        edge = max(edge, len(self.strip.corner)) + 1
        if self.title:
            yield Text(self.title, style="bold")
        for start, stop in bands(widths, max(options.max_width - edge, 1)):
            table = Table(box=None, padding=0, show_edge=False, pad_edge=False)
            table.add_column(
                self.strip.corner, style="dim", overflow="fold", min_width=min(edge, options.max_width // 2)
            )
            for name in names[start:stop]:
                table.add_column(Text(f" {name} "), overflow="fold")
            for (label, values), texts in zip(self.strip.rows, self.texts, strict=True):
                cells = [heated(texts[i], float(values[i]), self.heat) for i in range(start, stop)]
                for cell, width in zip(cells, widths[start:stop], strict=True):
                    cell.pad_right(max(width - cell.cell_len, 0))
                table.add_row(visible(label), *cells)
            yield table

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, options.max_width)


class Flow:
    """Short texts side by side, as many on a line as fit; none is broken where it fits on a line of its own."""

    def __init__(self, items: Sequence[Text], gap: int = 2) -> None:
        self.items = items
        self.gap = gap

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        widths = [item.cell_len + self.gap for item in self.items]
        for start, stop in bands(widths, options.max_width + self.gap):
            yield Text(" " * self.gap).join(self.items[start:stop])

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        longest = max((item.cell_len for item in self.items), default=0)
        whole = sum(item.cell_len + self.gap for item in self.items) - self.gap
        return Measurement(min(longest, options.max_width), min(max(whole, 0), options.max_width))


def bands(widths: list[int], room: int) -> Iterator[tuple[int, int]]:
    """The columns that fit beside each other, from first to behind last, at least one at a time.

    >>> list(bands([4, 4, 9, 2], 8))
    [(0, 2), (2, 3), (3, 4)]
    """
    start, used = 0, 0
    for column, width in enumerate(widths):
        if used and used + width > room:
            yield start, column
            start, used = column, 0
        used += width
    if start < len(widths):
        yield start, len(widths)
