"""k-sparse probes: which few features carry a label?

Source: Gurnee et al. 2023, "Finding Neurons in a Haystack: Case Studies with Sparse Probing" (arXiv:2305.01610):
features ranked by the difference of class means (its "max mean difference"), a logistic probe on the first k.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_core.errors import InputError
from mi_probing.logistic import fit_logistic
from mi_probing.standardising import Standardised
from mi_probing.tasks import Linear, Tasks

__all__ = ["fit_sparse", "ranked"]


def fit_sparse(x: Float[Tensor, "cell example d"], tasks: Tasks, k: int) -> Linear:
    """Logistic probes on the k features of the largest difference of means; all other weights are zero.

    Raises:
        InputError: no such number of features.
    """
    if not 1 <= k <= x.shape[-1]:
        raise InputError(f"k={k}: there are {x.shape[-1]} features; give a number from 1 to that.", k=k)
    order = ranked(x, tasks)[..., :k]
    weight = x.new_zeros(len(x), len(tasks), tasks.outputs, x.shape[-1])
    bias = x.new_zeros(weight.shape[:3])
    for task in range(len(tasks)):
        chosen = order[:, task]
        fitted = fit_logistic(x.gather(2, chosen[:, None].expand(-1, x.shape[1], -1)), tasks.only([task]))
        places = chosen[:, None].expand(-1, tasks.outputs, -1)
        weight[:, task].scatter_(2, places, fitted.weight[:, 0])
        bias[:, task] = fitted.bias[:, 0]
    return Linear(weight, bias)


def ranked(x: Float[Tensor, "cell example d"], tasks: Tasks) -> Int[Tensor, "cell task d"]:
    """Features by how far the class means lie apart, in standard deviations: of several classes the farthest two."""
    tasks = tasks.to(x)
    data = Standardised.of(x, tasks)
    means = []
    for label in range(tasks.classes):
        member = tasks.weights * (tasks.labels == label)
        means.append((member / member.sum(1, keepdim=True)) @ data.x)
    stacked = torch.stack(means)
    apart = (stacked.amax(0) - stacked.amin(0)) / data.scale
    return torch.argsort(apart, 2, descending=True)
