"""L-BFGS for many tasks at once: every task has steps, changes of its gradient, and a scale of its own.

Source: Nocedal and Wright 2006, "Numerical Optimization", algorithms 7.4 and 7.5, equation 7.20.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from mi_probing.preconditioning import Preconditioner

__all__ = ["Descent"]

HISTORY = 10


@dataclass
class Descent:
    """The last steps and changes of the gradient, from which the next direction is made."""

    solve: Preconditioner | None = None
    """What is known beforehand of the inverse Hessian, as a product with it."""
    steps: list[Tensor] = field(default_factory=list)
    changes: list[Tensor] = field(default_factory=list)

    def remember(self, step: Float[Tensor, "cell task p"], change: Float[Tensor, "cell task p"]) -> None:
        """Keep the newest; a task that did not move keeps zeros, which change nothing."""
        self.steps, self.changes = [*self.steps[1 - HISTORY :], step], [*self.changes[1 - HISTORY :], change]

    def only(self, tasks: list[int]) -> Descent:
        """Of some of the tasks."""
        solve = None if self.solve is None else self.solve.only(tasks)
        return Descent(solve, [one[:, tasks] for one in self.steps], [one[:, tasks] for one in self.changes])

    def direction(self, gradient: Float[Tensor, "cell task p"]) -> Float[Tensor, "cell task p"]:
        """Minus the estimated inverse Hessian times the gradient."""
        made, parts = gradient, []
        for step, change in zip(reversed(self.steps), reversed(self.changes), strict=True):
            inverse = reciprocal((step * change).sum(-1, keepdim=True))
            part = inverse * (step * made).sum(-1, keepdim=True)
            made = made - part * change
            parts.append((step, change, inverse, part))
        made = self.scaled(made)
        for step, change, inverse, part in reversed(parts):
            made = made + step * (part - inverse * (change * made).sum(-1, keepdim=True))
        return -made

    def scaled(self, made: Float[Tensor, "cell task p"]) -> Float[Tensor, "cell task p"]:
        """The first guess: what is known beforehand, scaled to what the last step saw."""
        solved = made if self.solve is None else self.solve(made)
        if not self.steps:
            return solved
        step, change = self.steps[-1], self.changes[-1]
        along = change if self.solve is None else self.solve(change)
        scale = (step * change).sum(-1, keepdim=True) * reciprocal((change * along).sum(-1, keepdim=True))
        return torch.where(scale > 0, scale, 1.0) * solved


def reciprocal(value: Tensor) -> Tensor:
    """One over it; 0 where it is not positive.

    >>> reciprocal(torch.tensor([2.0, 0.0])).tolist()
    [0.5, 0.0]
    """
    positive = value > 0
    return torch.where(positive, 1 / torch.where(positive, value, 1.0), 0.0)
