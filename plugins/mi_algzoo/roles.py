"""What each unit computes, in words: which simple function of the numbers so far its activation follows.

A probe for functions instead of labels: the squared correlation between a unit at a step and each of a list of
functions of the numbers that it has seen. It says what a unit goes along with; ablations say what it is used for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

import mi_core as mi
from mi_algzoo.weights import RNNWeights
from mi_core.labelled import Labelled
from mi_core.results import Result, ResultProvenance

__all__ = ["UnitRoles", "functions_of", "unit_roles"]


@dataclass(frozen=True, kw_only=True, eq=True)
class UnitRoles(Result):
    """How well each function explains each unit at each step."""

    share: Labelled
    """Of the unit's variance that an affine function of the function explains: step unit function."""
    best: tuple[tuple[str, ...], ...]
    """For each step, the function that explains each unit best; ``"constant"`` where the unit never moves."""

    title: ClassVar[str] = "What units follow"


def unit_roles(model: mi.Model, *, samples: int = 20_000, seed: int = 0) -> UnitRoles:
    """Which function of the numbers so far does each unit follow, step by step?

    Raises:
        UnsupportedAnalysis: the model is no recurrent network.
    """
    weights = RNNWeights.of(model)
    x = torch.randn(samples, weights.steps, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    states = weights.trace(x).relu()
    names = list(functions_of(weights.steps))
    shares = torch.stack([explained(states[time], x[:, : time + 1], weights.steps) for time in range(weights.steps)])
    moving = states.var(1) > 0
    best = tuple(
        tuple(names[int(share.argmax())] if moves else "constant" for share, moves in zip(step, lively, strict=True))
        for step, lively in zip(shares.nan_to_num(-1), moving.tolist(), strict=True)
    )
    return UnitRoles(
        provenance=ResultProvenance.of_weights(model),
        share=Labelled(shares, ("step", "unit", "function"), coords={"function": names}, name="share"),
        best=best,
    )


def functions_of(steps: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Functions of the numbers seen so far, ``[batch seen] -> [batch]``, by their names."""
    found: dict[str, Callable[[Tensor], Tensor]] = {}
    for i in range(steps):
        found[f"x{i}"] = partial(number, i)
        found[f"x{i}, or 0"] = partial(positive, i)
        found[f"largest but x{i}"] = partial(largest_but, i)
        found |= {f"x{i} - x{j}, or 0": partial(lead, i, j) for j in range(steps) if j != i}
    found |= {
        "largest": lambda x: x.amax(-1),
        "second largest": lambda x: x.topk(2).values[:, 1],
        "smallest": lambda x: x.amin(-1),
        "largest, or 0": lambda x: x.amax(-1).relu(),
        "smallest, or 0": lambda x: (-x.amin(-1)).relu(),
        "largest increase": lambda x: (x[:, 1:] - x[:, :-1]).amax(-1),
        "sum": lambda x: x.sum(-1),
        "sum, or 0": lambda x: x.sum(-1).relu(),
    }
    return found


def number(i: int, x: Tensor) -> Tensor:
    """One of the numbers."""
    return x[:, i]


def positive(i: int, x: Tensor) -> Tensor:
    """One of the numbers where it is positive."""
    return x[:, i].relu()


def largest_but(i: int, x: Tensor) -> Tensor:
    """The largest of all others."""
    return torch.cat((x[:, :i], x[:, i + 1 :]), -1).amax(-1)


def lead(i: int, j: int, x: Tensor) -> Tensor:
    """By how much one number exceeds another."""
    return (x[:, i] - x[:, j]).relu()


def explained(
    units: Float[Tensor, "batch unit"], x: Float[Tensor, "batch seen"], steps: int
) -> Float[Tensor, "unit function"]:
    """Squared correlations; NaN where a function needs numbers that were not seen, or nothing moves."""
    columns = []
    for function in functions_of(steps).values():
        try:
            columns.append(function(x))
        except (IndexError, RuntimeError):  # it needs a number that has not come yet
            columns.append(torch.full((len(x),), torch.nan, dtype=x.dtype))
    functions = torch.stack(columns, 1)
    a, b = units - units.mean(0), functions - functions.mean(0)
    shared = (a.T @ b) ** 2
    size = (a * a).sum(0)[:, None] * (b * b).sum(0)
    return torch.where(size > 0, shared / size, torch.nan)
