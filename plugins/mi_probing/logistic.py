"""Logistic regression of many cells and tasks at once: every task of a cell shares two matrix products an iteration.

The loss is scikit-learn's: the sum of the examples' losses plus ``penalty / 2`` times the squared weights, ``penalty``
being ``1 / C``; the bias is not penalised, two classes have one row of weights, more have one each (multinomial).

Outputs are linear in the parameters, so a search along a direction needs one product with the activations, however
many points of it are looked at. Tasks that are done are left out as soon as they are half of all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.errors import InputError
from mi_probing.descent import Descent
from mi_probing.preconditioning import Preconditioner
from mi_probing.standardising import Standardised
from mi_probing.tasks import Linear, Tasks

__all__ = ["fit_logistic"]

SEARCH_STEPS = 20
FLATTER = 0.3
"""A search ends where the slope is this part of what it was."""


def fit_logistic(
    x: Float[Tensor, "cell example d"],
    tasks: Tasks,
    *,
    tolerance: float = 1e-4,
    most: int = 1000,
    scaled: bool = True,
) -> Linear:
    """The logistic probes of every cell and task, each on its own standardised examples; in units of ``x``.

    Args:
        x: float32 or float64, which is what is computed in.
        tasks: labels, weights and penalties.
        tolerance: the largest entry of the gradient of the mean loss at which a fit is done, as in scikit-learn.
        most: iterations.
        scaled: standardise; False only takes means off, which changes no optimum but what the penalty means.

    Raises:
        InputError: a penalty that is not positive, or a fit that is not done after so many iterations.
    """
    if not bool((tasks.penalty > 0).all()):
        raise InputError(f"penalty {float(tasks.penalty.min()):g}: without a positive one there may be no optimum.")
    tasks = tasks.to(x)
    data = Standardised.of(x, tasks, scaled=scaled)
    loss = Loss(data, tasks)
    found = x.new_zeros(len(x), len(tasks), tasks.outputs * (x.shape[-1] + 1))
    at, outputs = found, x.new_zeros(len(x), len(tasks), tasks.outputs, x.shape[1])
    descent = Descent(Preconditioner.of(data.x, loss.ridge.expand(len(x), -1), tasks.outputs))
    gradient = loss.gradient(at, outputs)
    left = torch.arange(len(tasks))
    for _ in range(most):
        unfinished = gradient.abs().amax(-1, keepdim=True) > tolerance
        active = unfinished[..., 0].any(0).nonzero()[:, 0].tolist()
        if 2 * len(active) <= len(left):
            found[:, left] = at
            if not active:
                return data.raw(Loss(data, tasks).probes(found))
            left, loss, descent = left[active], loss.only(active), descent.only(active)
            at, outputs, gradient, unfinished = (one[:, active] for one in (at, outputs, gradient, unfinished))
        direction = torch.where(unfinished, descent.direction(gradient), 0.0)
        along = loss.outputs(direction)
        step = searched(loss.slopes(at, outputs, direction, along), (gradient * direction).sum(-1))
        moved = step[..., None] * direction
        at, outputs = at + moved, outputs + step[..., None, None] * along
        before, gradient = gradient, loss.gradient(at, outputs)
        descent.remember(moved, gradient - before)
    raise InputError(
        f"logistic regression: after {most} iterations the gradient is {float(gradient.abs().max()):.1e}, above "
        f"{tolerance:g}. Give a larger penalty, or a tolerance that is reachable in {x.dtype}."
    )


@dataclass(frozen=True, eq=False)
class Loss:
    """The mean loss of each task with its penalty; parameters are weights and bias of each output in turn."""

    data: Standardised
    tasks: Tasks

    def only(self, tasks: list[int]) -> Loss:
        """Of some of the tasks."""
        return Loss(self.data.only(tasks), self.tasks.only(tasks))

    def probes(self, at: Float[Tensor, "cell task p"]) -> Linear:
        """Parameters as probes."""
        parted = at.reshape(*at.shape[:2], self.tasks.outputs, -1)
        return Linear(parted[..., :-1], parted[..., -1])

    def parameters(self, weight: Float[Tensor, "cell task output d"], bias: Tensor) -> Float[Tensor, "cell task p"]:
        """Probes as parameters."""
        return torch.cat([weight, bias[..., None]], -1).flatten(2)

    def outputs(self, at: Float[Tensor, "cell task p"]) -> Float[Tensor, "cell task output example"]:
        """What they say of every example."""
        return self.data.shared(self.probes(at)).by_output(self.data.x)

    @property
    def share(self) -> Float[Tensor, "task 1 example"]:
        """What each example is of its task's loss."""
        return (self.tasks.weights / self.tasks.weights.sum(1, keepdim=True))[:, None]

    @property
    def ridge(self) -> Float[Tensor, "cell_or_1 task"]:
        """The penalty beside a mean loss."""
        return self.tasks.penalty / self.tasks.weights.sum(1)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Of the second of two classes, or of each."""
        return outputs.sigmoid() if self.tasks.outputs == 1 else outputs.softmax(2)

    def gradient(
        self, at: Float[Tensor, "cell task p"], outputs: Float[Tensor, "cell task output example"]
    ) -> Float[Tensor, "cell task p"]:
        """Of the mean loss and the penalty."""
        residual = self.share * (self.probabilities(outputs) - self.tasks.targets())
        total = residual.sum(-1)
        on_x = (residual.flatten(1, 2) @ self.data.x).reshape(*total.shape, -1)
        weight = (on_x - total[..., None] * self.data.mean[:, :, None]) / self.data.scale[:, :, None]
        return self.parameters(weight + self.ridge[..., None, None] * self.probes(at).weight, total)

    def slopes(self, at: Tensor, outputs: Tensor, direction: Tensor, along: Tensor) -> Slopes:
        """Slope and curvature of each task's loss at steps along a direction; ``along`` is how outputs change."""
        weight, change = self.probes(at).weight.flatten(2), self.probes(direction).weight.flatten(2)
        bend, tilt = (self.ridge * (change * one).sum(-1) for one in (change, weight))
        weighted, targets = self.share * along, self.tasks.targets()

        def slopes(step: Tensor) -> tuple[Tensor, Tensor]:
            p = self.probabilities(outputs + step[..., None, None] * along)
            slope = ((p - targets) * weighted).sum((-1, -2))
            spread = p * (1 - p) * along if self.tasks.outputs == 1 else p * (along - (p * along).sum(2, keepdim=True))
            return slope + tilt + step * bend, (spread * weighted).sum((-1, -2)) + bend

        return slopes


Slopes = Callable[[Tensor], tuple[Tensor, Tensor]]


def searched(slopes: Slopes, first: Float[Tensor, "cell task"]) -> Float[Tensor, "cell task"]:
    """The step at which the slope is nearly gone: Newton's method between two bounds, for convex losses.

    ``first`` is the slope at no step.

    >>> searched(lambda step: (step - 3.0, torch.ones_like(step)), torch.tensor([[-3.0]])).tolist()
    [[3.0]]
    """
    step = torch.ones_like(first)
    low, high = torch.zeros_like(first), torch.full_like(first, torch.inf)
    for _ in range(SEARCH_STEPS):
        slope, curvature = slopes(step)
        done = slope.abs() <= FLATTER * first.abs()
        if bool(done.all()):
            break
        low, high = torch.where(slope < 0, step, low), torch.where(slope < 0, high, step)
        newton = step - slope / curvature.clamp_min(torch.finfo(slope.dtype).tiny)
        other = torch.where(high.isinf(), 4 * step, (low + high) / 2)
        step = torch.where(done, step, torch.where((newton > low) & (newton < high), newton, other))
    return step
