"""Numbers as colours: how far from the smallest to the largest, or from zero where both signs occur."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from mi_core.labelled import Label, Labelled, visible

__all__ = ["Heat", "number", "strips"]

# Dark to bright, in equal steps of lightness: viridis at 0, 1/4, ... (van der Walt and Smith 2015, CC0).
STOPS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
COLD, WARM = 0.59, 0.04


@dataclass(frozen=True)
class Heat:
    """A colour scale over numbers from ``low`` to ``high``."""

    low: float
    high: float

    @classmethod
    def of(cls, array: Labelled) -> Heat:
        """The scale that covers the finite numbers of an array; probabilities always from zero to one."""
        values = array.values.double()
        finite = values[values.isfinite()]
        if array.unit == "probability" or not finite.numel():
            return cls(0.0, 1.0)
        return cls(float(finite.min()), float(finite.max()))

    @property
    def signed(self) -> bool:
        """Whether both signs occur, so that zero is the neutral middle."""
        return self.low < 0 < self.high

    def level(self, value: float) -> float:
        """0 to 1 along the scale; -1 to 1 from a signed one; zero for what is no number.

        >>> Heat(0.0, 4.0).level(1.0), Heat(-1.0, 4.0).level(-1.0)
        (0.25, -0.25)
        """
        if math.isnan(value):
            return 0.0
        if self.signed:
            return max(-1.0, min(1.0, value / max(-self.low, self.high)))
        span = self.high - self.low
        return max(0.0, min(1.0, (value - self.low) / span)) if span > 0 else 0.0

    def colours(self, value: float) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Text and background for a terminal."""
        level = self.level(value)
        if self.signed:
            red, green, blue = colorsys.hls_to_rgb(WARM if level > 0 else COLD, 0.95 - 0.6 * abs(level), 0.7)
            back = (round(red * 255), round(green * 255), round(blue * 255))
        else:
            step = min(int(level * 4), 3)
            part = level * 4 - step
            back = tuple(round(a + part * (b - a)) for a, b in zip(STOPS[step], STOPS[step + 1], strict=True))  # type: ignore[assignment]
        bright = 0.299 * back[0] + 0.587 * back[1] + 0.114 * back[2] > 120
        return ((0, 0, 0) if bright else (255, 255, 255)), back


def number(value: float | int | bool) -> str:
    """A number as short as three significant digits allow; a dash for what is no number.

    >>> number(0.12345), number(12345.6), number(float("nan")), number(3), number(1e-9)
    ('0.123', '12346', '-', '3', '1e-09')
    """
    if isinstance(value, bool | int):
        return str(value)
    if math.isnan(value):
        return "-"
    size = abs(value)
    if size >= 100 and math.isfinite(value) and size < 1e7:
        return f"{value:.0f}"
    return f"{value:.3g}" if size == 0 or size < 1e-3 else f"{value:#.3g}".rstrip(".")


@dataclass(frozen=True)
class Strip:
    """Two axes of an array (or one, as a single row), with what was selected on the others."""

    heading: str
    rows: tuple[tuple[Label, tuple[float, ...]], ...]
    columns: tuple[Label, ...]
    corner: str


def strips(array: Labelled) -> Iterator[Strip]:
    """An array as two-dimensional tables, one for each place along its leading axes."""
    leading = array.dims[:-2]
    for places in product(*(range(size) for size in array.shape[: len(leading)])):
        part = array
        for dim, place in zip(leading, places, strict=True):
            part = part.at_place(dim, place)
        heading = ", ".join(
            f"{dim} {visible(array.coords[dim][place])}" for dim, place in zip(leading, places, strict=True)
        )
        yield strip(part, heading)


def strip(part: Labelled, heading: str = "") -> Strip:
    """An array of at most two axes as one table."""
    if not part.dims:
        return Strip(heading, ((part.name, (part.values.item(),)),), ("",), "")
    columns = tuple(part.coords[part.dims[-1]])
    if len(part.dims) == 1:
        return Strip(heading, ((part.name, tuple(part.values.tolist())),), columns, part.dims[0])
    rows = zip(part.coords[part.dims[0]], map(tuple, part.values.tolist()), strict=True)
    return Strip(heading, tuple(rows), columns, " / ".join(part.dims))
