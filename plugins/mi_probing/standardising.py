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
        shared_mean = x.mean(1, keepdim=True)
        made = x - shared_mean
        shared_scale = torch.ones_like(shared_mean)
        if scaled:
            variance = torch.linalg.vector_norm(made, dim=1, keepdim=True).square() / x.shape[1]
            shared_scale = deviation(variance, shared_mean)
            made /= shared_scale
        used = (tasks.weights > 0).to(x)
        if bool(used.all()):
            mean = made.new_zeros(len(x), len(tasks), x.shape[-1])
            return cls(made, mean, torch.ones_like(mean), shared_mean, shared_scale)
        used = used / used.sum(1, keepdim=True)
        mean = used @ made
        scale = deviation(used @ (made * made) - mean * mean, mean) if scaled else torch.ones_like(mean)
        return cls(made, mean, scale, shared_mean, shared_scale)

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


def deviation(variance: Tensor, mean: Tensor) -> Tensor:
    """Standard deviations, 1 where a feature does not vary beyond rounding.

    Source: scikit-learn 1.9, preprocessing.StandardScaler (_is_constant_feature).
    """
    rounding = 100 * torch.finfo(variance.dtype).eps * (1e-12 + mean * mean)
    return torch.where(variance <= rounding, 1.0, variance.clamp_min(0).sqrt())
