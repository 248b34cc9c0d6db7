"""How often a network is right: exactly where that can be had, and estimates by how much work they take.

A *mechanistic estimate* follows from the weights, without running the network on inputs. Where every input can be
listed, or space falls into few enough cones, it is exact; cut short, it is an estimate whose error shrinks with the
work spent. Sampling is what it has to beat.

Source: the comparison by squared error and work is that of Hilton et al. 2026, AlgZoo, Alignment Research Center.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

import mi_core as mi
from mi_algzoo.cones import EXACT_UP_TO, cut_all, measure
from mi_algzoo.regions import linear_map, pieces_of
from mi_algzoo.tasks import Task, task_of
from mi_algzoo.weights import RNNWeights
from mi_core.errors import InputError
from mi_core.labelled import Labelled
from mi_core.results import Result, ResultProvenance

__all__ = ["AccuracyEstimates", "accuracy", "accuracy_estimates", "answers"]

ROWS = 65_536
"""Inputs that run at a time."""


def answers(model: mi.Model, x: Tensor) -> Tensor:
    """What a model answers to each input: a class, or a number where it returns one."""
    if model.shape.numbers is not None:
        weights = RNNWeights.of(model)
        out = torch.cat([weights(part) for part in torch.split(x, ROWS)])
    else:
        out = torch.cat([model.run(part, logits="last").last_logits for part in torch.split(x, ROWS)])
    return out[:, 0] if out.shape[-1] == 1 else out.argmax(-1)


def accuracy(model: mi.Model, task: str, *, samples: int = 100_000, seed: int = 0) -> float:
    """The share of inputs that the model answers rightly.

    Exact where the task's inputs can be listed, and for recurrent networks of up to three numbers, by the solid angles
    of the cones on which answer and label are constant; else a share of ``samples`` inputs.

    Raises:
        InputError: no such task; or its answers are numbers, which are never equal.
    """
    kind, n = task_for(model, task), length_of(model)
    if kind.finite:
        x = kind.domain(n)
        return float((answers(model, x) == kind.label(x)).double().mean())
    if n <= EXACT_UP_TO:
        return sum(share for _, share in right_by_region(RNNWeights.of(model), kind))
    x = kind.draw(samples, n, seed)
    return float((answers(model, x) == kind.label(x)).double().mean())


def task_for(model: mi.Model, name: str) -> Task:
    """The task, if this model can be right or wrong at it."""
    task, n = task_of(name), length_of(model)
    task.check(n)
    if task.scalar:
        raise InputError(f"the answers of {name} are numbers: a model is near them, never right. Measure the error.")
    if model.shape.d_vocab != task.classes(n) or task.finite != (model.shape.numbers is None):
        raise InputError(
            f"{model.name} returns {model.shape.d_vocab} numbers for {n}: {name} of {n} is another task.", task=name
        )
    return task


def length_of(model: mi.Model) -> int:
    """How many numbers a model reads."""
    return model.shape.numbers or model.shape.n_ctx or 0


def right_by_region(weights: RNNWeights, task: Task) -> list[tuple[float, float]]:
    """Of each cone: its share of inputs, and the share of inputs that lie in it and are answered rightly."""
    n = weights.steps
    order = torch.stack([unit(n, i) - unit(n, j) for i in range(n) for j in range(i)])
    found = []
    for pattern, cone in pieces_of(weights):
        outputs = linear_map(weights, pattern)
        rivals = torch.stack([outputs[i] - outputs[j] for i in range(len(outputs)) for j in range(i)])
        cells = torch.stack(cut_all([cone], torch.cat((order, rivals))))
        inside = cells.sum(1)  # a point within each cell, on which answer and label are constant
        right = (inside @ outputs.T).argmax(-1) == task.label(inside)
        shares = measure(cells)
        found.append((float(measure(cone[None])[0]), float(shares[right].sum())))
    return found


def unit(n: int, axis: int) -> Tensor:
    """A unit vector."""
    return torch.eye(n, dtype=torch.float64)[axis]


@dataclass(frozen=True, kw_only=True, eq=True)
class AccuracyEstimates(Result):
    """Estimates of one accuracy, with what each costs."""

    estimate: Labelled
    """Of the accuracy: method."""
    error: Labelled
    """Squared distance from the exact accuracy; of sampling its expectation: method."""
    work: Labelled
    """Multiplications and additions: method."""
    exact: float

    title: ClassVar[str] = "Estimates of an accuracy"

    def page_values(self) -> Mapping[str, Any]:
        """What its page shows first."""
        return {"lead": f"The exact accuracy is {self.exact:.6f}."}


def accuracy_estimates(
    model: mi.Model,
    task: str,
    *,
    cones: Sequence[float] = (0.1, 0.3, 1.0),
    samples: Sequence[int] = (100, 10_000),
    seed: int = 0,
) -> AccuracyEstimates:
    """How near do estimates come to the exact accuracy, for how much work?

    ``cones`` are shares of all cones, the largest first; what lies in the others counts as right by chance. ``samples``
    are numbers of random inputs.

    Raises:
        InputError: the network reads more than three numbers, so that nothing exact is known.
    """
    kind, weights = task_for(model, task), RNNWeights.of(model)
    n = weights.steps
    if n > EXACT_UP_TO:
        raise InputError(f"{n} numbers: accuracies are known exactly up to {EXACT_UP_TO}.", numbers=n)
    found = sorted(right_by_region(weights, kind), reverse=True)
    exact = sum(right for _, right in found)
    chance = 1 / kind.classes(n)
    per_cone, per_input = cone_work(weights), 2 * weights.steps * weights.size
    rows: list[tuple[str, float, float, float]] = []
    for share in cones:
        count = max(1, round(share * len(found)))
        known = sum(size for size, _ in found[:count])
        value = sum(right for _, right in found[:count]) + chance * (1 - known)
        rows.append((f"{count} cones", value, (value - exact) ** 2, float(count * per_cone)))
    for count in samples:
        x = kind.draw(count, n, seed)
        value = float((answers(model, x) == kind.label(x)).double().mean())
        rows.append((f"{count} inputs", value, exact * (1 - exact) / count, float(count * per_input)))
    names = {"method": [row[0] for row in rows]}
    columns = [torch.tensor([row[index] for row in rows], dtype=torch.float64) for index in (1, 2, 3)]
    estimate, error, work = (
        Labelled(values, ("method",), coords=names, name=name)
        for values, name in zip(columns, ("estimate", "squared error", "operations"), strict=True)
    )
    provenance = ResultProvenance.of_weights(model)
    return AccuracyEstimates(provenance=provenance, estimate=estimate, error=error, work=work, exact=exact)


def cone_work(weights: RNNWeights) -> int:
    """What one cone costs: its linear map, unrolled, and the heights of its rays over every hyperplane."""
    n, units, outputs = weights.steps, weights.units, len(weights.w_oh)
    unrolled = 2 * n * (n * units * units) + 2 * n * outputs * units
    planes = n * units + n * (n - 1) // 2 + outputs * (outputs - 1) // 2
    return unrolled + 2 * planes * n * n
