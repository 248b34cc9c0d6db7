"""Standardisation inside each fit: means and deviations of the examples that the fit sees, and of no others.

All fits share one copy of the activations. A fit's own standardisation is an affine change of its weights, since
``(x - mean) / scale @ v = x @ (v / scale) - mean @ (v / scale)``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from mi_probing.tasks import Linear, Tasks

__all__ = ["Standardised"]


@dataclass(frozen=True, eq=False)
class Standardised:
    """Activations with mean 0 and deviation 1 over all examples, and each task's own mean and deviation of them."""

    x: Float[Tensor, "cell example d"]
    """All examples, standardised together: for the arithmetic, no fit depends on it."""
    mean: Float[Tensor, "cell task d"]
    scale: Float[Tensor, "cell task d"]
    """Of the examples of each task, in the units of ``x``; 1 where a feature is constant, as in scikit-learn."""
    shared_mean: Float[Tensor, "cell 1 d"]
    shared_scale: Float[Tensor, "cell 1 d"]

    @classmethod
    def of(cls, x: Float[Tensor, "cell example d"], tasks: Tasks, *, scaled: bool = True) -> Standardised:
        """``scaled=False`` only takes the means off: for methods that are about raw activations."""
        used = (tasks.weights > 0).to(x)
        everything = bool(used.all())
        used = used / used.sum(1, keepdim=True)
        made = torch.empty_like(x)
        # cell by cell: what is made on the way stays small, and is made in the same place again
        rows = zip(*(of_cell(*one, used, scaled) for one in zip(x, made, strict=True)), strict=True)
        shared_mean, shared_scale, mean, scale = (torch.stack(row) for row in rows)
        if everything:
            mean, scale = torch.zeros_like(mean), torch.ones_like(scale)
        return cls(made, mean, scale, shared_mean[:, None], shared_scale[:, None])

    def only(self, tasks: list[int]) -> Standardised:
        """With some of the tasks."""
        return replace(self, mean=self.mean[:, tasks], scale=self.scale[:, tasks])

    def shared(self, probes: Linear) -> Linear:
        """Probes on a task's own standardised activations as probes on ``x``."""
        weight = probes.weight / self.scale[:, :, None]
        return Linear(weight, probes.bias - (weight * self.mean[:, :, None]).sum(-1))

    def raw(self, probes: Linear) -> Linear:
        """Probes on a task's own standardised activations as probes on the activations as they were given."""
        on_x = self.shared(probes)
        weight = on_x.weight / self.shared_scale[:, :, None]
        return Linear(weight, on_x.bias - (weight * self.shared_mean[:, :, None]).sum(-1))


def of_cell(
    x: Float[Tensor, "example d"], made: Float[Tensor, "example d"], used: Float[Tensor, "task example"], scaled: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Standardise a cell's examples into ``made``; their mean and scale, and in the new units those of each task."""
    shared_mean = x.mean(0)
    torch.sub(x, shared_mean, out=made)
    mean = used @ made
    if not scaled:
        return shared_mean, torch.ones_like(shared_mean), mean, torch.ones_like(mean)
    squares = made * made
    shared_scale = deviation(squares.mean(0), shared_mean)
    made /= shared_scale
    mean = mean / shared_scale
    return shared_mean, shared_scale, mean, deviation(used @ squares / shared_scale.square() - mean * mean, mean)


def deviation(variance: Tensor, mean: Tensor) -> Tensor:
    """Standard deviations, 1 where a feature does not vary beyond rounding.

    Source: scikit-learn 1.9, preprocessing.StandardScaler (_is_constant_feature).
    """
    rounding = 100 * torch.finfo(variance.dtype).eps * (1e-12 + mean * mean)
    return torch.where(variance <= rounding, 1.0, variance.clamp_min(0).sqrt())
