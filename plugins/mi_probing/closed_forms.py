"""Probes that need no iterations: ridge and linear regression, discriminants, differences of means.

Tasks with the same examples share one Gram matrix. In float64: a Gram matrix squares what is badly conditioned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_probing.gram import gram_of
from mi_probing.standardising import Standardised
from mi_probing.tasks import Linear, Tasks

__all__ = ["fit_discriminant", "fit_ridge"]


@dataclass(frozen=True, eq=False)
class Moments:
    """The examples of some tasks, centred at their weighted mean, with their Gram matrix."""

    x: Float[Tensor, "cell example d"]
    center: Float[Tensor, "cell d"]
    """The weighted mean that was taken off, in the tasks' standardised units."""
    weights: Float[Tensor, "example"]
    gram: Float[Tensor, "cell d d"]
    """Weighted sums of products."""

    def sums(self, columns: Float[Tensor, "*cell example column"]) -> Float[Tensor, "cell d column"]:
        """Weighted sums of the examples times columns of numbers."""
        return self.x.transpose(1, 2) @ (self.weights[:, None] * columns)

    def probes(
        self, weight: Float[Tensor, "cell d output"], bias: Float[Tensor, "cell output"]
    ) -> tuple[Tensor, Tensor]:
        """Weights and biases on centred examples as weights ``[cell output d]`` and biases on standardised ones."""
        return weight.transpose(1, 2), bias - (self.center[:, None] @ weight)[:, 0]


def moments(data: Standardised, tasks: Tasks) -> Iterator[tuple[list[int], Moments]]:
    """The numbers of the tasks that share their examples and weights, and the moments of these."""
    rows, members = torch.unique(tasks.weights, dim=0, return_inverse=True)
    for number, weights in enumerate(rows.double()):
        chosen = (members == number).nonzero()[:, 0].tolist()
        mean, scale = data.mean[:, chosen[0], None], data.scale[:, chosen[0], None]
        x = ((data.x - mean) / scale).double()
        center = (weights / weights.sum()) @ x
        x = x - center[:, None]
        yield chosen, Moments(x, center, weights, gram_of(x, weights))


def fit_ridge(x: Float[Tensor, "cell example d"], tasks: Tasks, *, scaled: bool = True) -> Linear:
    """Ridge regression on the labels; on -1 and 1 for classes. ``penalty`` multiplies the squared weights; 0 is none.

    Without a penalty it is linear regression, of the least norm where there are several.

    Source: scikit-learn 1.9, linear_model.Ridge and RidgeClassifier (``alpha``).
    """
    tasks, data, made = prepared(x, tasks, scaled)
    targets = tasks.targets().double().transpose(1, 2)
    targets = targets if tasks.classes == 0 else 2 * targets - 1
    for chosen, seen in moments(data, tasks):
        for task in chosen:
            mean = (seen.weights / seen.weights.sum()) @ targets[task]
            penalty = tasks.penalty[:, task].double().expand(len(x))
            weight = solved(seen.gram, seen.sums(targets[task] - mean), penalty)
            keep(made, task, *seen.probes(weight, mean.expand(len(x), -1)))
    return data.raw(made)


def fit_discriminant(
    x: Float[Tensor, "cell example d"],
    tasks: Tasks,
    *,
    covariance: bool = True,
    priors: bool = True,
    scaled: bool = True,
) -> Linear:
    """Classes as Gaussians of one covariance: the linear discriminant. ``penalty`` is the shrinkage, from 0 to 1.

    Without ``covariance`` it is the identity: the difference of means. Without ``priors`` all classes are as likely.

    Source: scikit-learn 1.9, LinearDiscriminantAnalysis(solver="lsqr", shrinkage=...); without covariance and priors
    Marks and Tegmark 2023, "The Geometry of Truth" (arXiv:2310.06824), mass-mean probes; with the covariance their
    form for independent and identically distributed examples.
    """
    tasks, data, made = prepared(x, tasks, scaled)
    for chosen, seen in moments(data, tasks):
        for task in chosen:
            counts, means = class_means(seen, tasks.labels[task], tasks.classes)
            log_prior = (counts / counts.sum()).log() if priors else torch.zeros_like(counts)
            weight = means.transpose(1, 2)
            if covariance:
                within = (seen.gram - (means.transpose(1, 2) * counts) @ means) / counts.sum()
                level = within.diagonal(dim1=1, dim2=2).mean(1)
                shrinkage = tasks.penalty[:, task].double().expand(len(x))
                weight = solved((1 - shrinkage)[:, None, None] * within, weight, shrinkage * level)
            bias = log_prior - (means * weight.transpose(1, 2)).sum(2) / 2
            if tasks.outputs == 1:
                weight, bias = weight[..., 1:] - weight[..., :1], bias[:, 1:] - bias[:, :1]
            keep(made, task, *seen.probes(weight, bias))
    return data.raw(made)


def class_means(
    seen: Moments, labels: Int[Tensor, "example"], classes: int
) -> tuple[Float[Tensor, "class"], Float[Tensor, "cell class d"]]:
    """How much weight each class has, and where it lies."""
    member = torch.nn.functional.one_hot(labels.long(), classes).double()
    counts = seen.weights @ member
    return counts, (seen.sums(member) / counts).transpose(1, 2)


def solved(
    matrix: Float[Tensor, "cell d d"], right: Float[Tensor, "cell d column"], ridge: Float[Tensor, "cell"]
) -> Float[Tensor, "cell d column"]:
    """``(matrix + ridge)`` divided into ``right``; by the pseudo-inverse where no ridge holds it."""
    if bool((ridge > 0).all()):
        eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        return torch.cholesky_solve(right, torch.linalg.cholesky(matrix + ridge[:, None, None] * eye))
    inverse = torch.linalg.pinv(matrix, hermitian=True)
    loose = (ridge == 0)[:, None, None]
    held = torch.where(ridge > 0, ridge, 1.0)
    return torch.where(loose, inverse @ right, solved(matrix, right, held))


def prepared(x: Float[Tensor, "cell example d"], tasks: Tasks, scaled: bool) -> tuple[Tasks, Standardised, Linear]:
    """The tasks beside the activations, these standardised, and room for the probes."""
    tasks = tasks.to(x)
    room = x.new_zeros(len(x), len(tasks), tasks.outputs, x.shape[-1])
    return tasks, Standardised.of(x, tasks, scaled=scaled), Linear(room, x.new_zeros(room.shape[:3]))


def keep(made: Linear, task: int, weight: Tensor, bias: Tensor) -> None:
    """Put one task's probes where they belong."""
    made.weight[:, task], made.bias[:, task] = weight.to(made.weight), bias.to(made.bias)
