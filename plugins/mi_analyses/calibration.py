"""How strong must an intervention be? Bisection between two doses whose responses lie around what is wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mi_core.errors import ValueMismatch

__all__ = ["Dose", "dose_for"]

STEPS = 60
"""Halvings: behind them two doses are the same number."""


@dataclass(frozen=True)
class Dose:
    """A strength, and the response that was measured there."""

    strength: float
    response: float


def dose_for(
    measure: Callable[[float], float],
    doses: Sequence[float],
    responses: Sequence[float],
    target: float,
    *,
    neutral: float,
    tolerance: float,
) -> Dose:
    """Which dose has the wanted response?

    ``doses`` were measured already. Of several pairs with the target between them the one nearest to ``neutral``, the
    dose that does nothing, is taken. Every response is measured at its dose, none is interpolated.

    Raises:
        ValueMismatch: the target lies outside the responses, or the response jumps over it.

    >>> round(dose_for(lambda x: x * x, [0, 1, 3], [0, 1, 9], 4.0, neutral=0, tolerance=1e-6).strength, 3)
    2.0
    """
    points = sorted(zip(map(float, doses), map(float, responses), strict=True))
    exact = [Dose(*point) for point in points if abs(point[1] - target) <= tolerance]
    if exact:
        return min(exact, key=lambda dose: abs(dose.strength - neutral))
    around = [(low, high) for low, high in pairwise(points) if (low[1] < target) != (high[1] < target)]
    if not around:
        seen = [response for _, response in points]
        raise ValueMismatch(
            f"no dose between {points[0][0]:g} and {points[-1][0]:g} gives {target:g}: the responses go from "
            f"{min(seen):.4g} to {max(seen):.4g}. Give doses whose responses lie around it.",
            target=target,
        )
    low, high = min(around, key=lambda pair: min(abs(pair[0][0] - neutral), abs(pair[1][0] - neutral)))
    for _ in range(STEPS):
        middle = (low[0] + high[0]) / 2
        response = measure(middle)
        if abs(response - target) <= tolerance:
            return Dose(middle, response)
        if (response < target) == (low[1] < target):
            low = (middle, response)
        else:
            high = (middle, response)
    raise ValueMismatch(
        f"the response jumps from {low[1]:.4g} to {high[1]:.4g} at a dose of {low[0]:.4g}, over the wanted {target:g}.",
        target=target,
    )
