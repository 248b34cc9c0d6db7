"""Curves for pages: numbers along an axis as lines of a drawing, with bands of what they may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Chart", "Curve"]

WIDTH, HEIGHT = 420.0, 240.0
LEFT, BELOW, MARGIN = 40.0, 26.0, 12.0


@dataclass(frozen=True)
class Curve:
    """One line; ``band`` is a low and a high end at each place."""

    name: str
    values: Sequence[float]
    colour: str
    dashed: bool = False
    band: tuple[Sequence[float], Sequence[float]] | None = None


@dataclass(frozen=True)
class Chart:
    """Curves over the same places."""

    heading: str
    across: str
    places: Sequence[str]
    curves: Sequence[Curve]
    low: float = 0.0
    high: float = 1.0

    width: float = WIDTH
    height: float = HEIGHT

    def x(self, place: int) -> float:
        """Where a place is, in pixels from the left."""
        return LEFT + (WIDTH - LEFT - MARGIN) * (0.5 if len(self.places) < 2 else place / (len(self.places) - 1))

    def y(self, value: float) -> float:
        """Where a value is, in pixels from the top.

        >>> chart = Chart("", "", ["0"], [])
        >>> chart.y(0.0), chart.y(1.0)
        (214.0, 12.0)
        """
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return HEIGHT - BELOW - share * (HEIGHT - BELOW - MARGIN)

    def points(self, values: Sequence[float]) -> list[tuple[float, float]]:
        """Where numbers are; NaN is left out."""
        return [(self.x(at), self.y(value)) for at, value in enumerate(values) if value == value]

    def line(self, curve: Curve) -> str:
        """A curve as the points of a polyline."""
        return spelled(self.points(curve.values))

    def area(self, curve: Curve) -> str:
        """A curve's band as the points of a polygon."""
        low, high = curve.band or ((), ())
        return spelled([*self.points(low), *reversed(self.points(high))])

    @property
    def ticks(self) -> list[tuple[str, float]]:
        """Five values with their heights."""
        values = [self.low + (self.high - self.low) * at / 4 for at in range(5)]
        return [(f"{value:.2f}", self.y(value)) for value in values]

    @property
    def marks(self) -> list[tuple[str, float]]:
        """Some of the places, at most a dozen."""
        step = -(-len(self.places) // 12)
        return [(name, self.x(at)) for at, name in enumerate(self.places) if at % step == 0]


def spelled(points: Sequence[tuple[float, float]]) -> str:
    """Points as SVG writes them."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
