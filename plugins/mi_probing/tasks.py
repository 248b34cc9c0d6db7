"""Many fits that share one set of activations: folds, penalties and controls differ in labels and weights only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from mi_core.errors import InputError

__all__ = ["Linear", "Tasks"]


@dataclass(frozen=True, eq=False)
class Tasks:
    """What is fitted on the activations ``[cell example d]``: every task in every cell.

    >>> tasks = Tasks.of(torch.tensor([0, 1, 1]), 2, [1.0, 10.0])
    >>> len(tasks), tasks.penalty.tolist()
    (2, [[1.0, 10.0]])
    """

    labels: Shaped[Tensor, "task example"]
    """Class numbers, or floats to regress on."""
    weights: Float[Tensor, "task example"]
    """How much each example counts; 0 leaves it out of the fit, of its standardisation too."""
    penalty: Float[Tensor, "cell_or_1 task"]
    """What the method makes of it: of linear methods the factor of the squared weights."""
    classes: int
    """How many; 0 where the labels are numbers."""

    @classmethod
    def of(
        cls,
        labels: Shaped[Tensor, "example"],
        classes: int,
        penalties: Sequence[float] = (1.0,),
        used: Bool[Tensor, "example"] | None = None,
        *,
        balanced: bool = False,
    ) -> Tasks:
        """One task for each penalty, on the examples that are ``used``.

        ``balanced`` lets every class count the same in all: weights are examples / (classes x examples of the class).
        """
        mask = torch.ones(len(labels)) if used is None else used.float()
        weights = balanced_weights(labels, mask, classes) if balanced else mask
        count = len(penalties)
        return cls(
            labels.expand(count, -1), weights.expand(count, -1), torch.tensor([list(penalties)]).float(), classes
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def outputs(self) -> int:
        """Numbers that a probe computes: one for two classes (its sign chooses) or a regression, else one each.

        >>> Tasks.of(torch.tensor([0, 1, 2]), 3).outputs
        3
        """
        return self.classes if self.classes > 2 else 1

    def joined(self, other: Tasks) -> Tasks:
        """These tasks and the other's behind them."""
        cells = max(len(self.penalty), len(other.penalty))
        penalty = torch.cat([self.penalty.expand(cells, -1), other.penalty.expand(cells, -1)], 1)
        return replace(
            self,
            labels=torch.cat([self.labels, other.labels]),
            weights=torch.cat([self.weights, other.weights]),
            penalty=penalty,
        )

    def only(self, tasks: list[int]) -> Tasks:
        """Some of them."""
        return replace(self, labels=self.labels[tasks], weights=self.weights[tasks], penalty=self.penalty[:, tasks])

    def to(self, x: Tensor) -> Tasks:
        """On the device and in the dtype of the activations."""
        return replace(
            self,
            labels=self.labels.to(x) if self.classes == 0 else self.labels.to(x.device),
            weights=self.weights.to(x),
            penalty=self.penalty.to(x),
        )

    def targets(self) -> Float[Tensor, "task output example"]:
        """The labels as numbers: as they are, 0 and 1 of two classes, else one row for each class."""
        if self.classes <= 2:
            return self.labels.to(self.weights)[:, None]
        return (self.labels[:, None] == torch.arange(self.classes).to(self.labels)[:, None]).to(self.weights)


def balanced_weights(
    labels: Shaped[Tensor, "example"], mask: Float[Tensor, "example"], classes: int
) -> Float[Tensor, "example"]:
    """Weights under which every class counts the same.

    Source: scikit-learn 1.9, utils.class_weight.compute_class_weight("balanced").

    >>> balanced_weights(torch.tensor([0, 0, 0, 1]), torch.ones(4), 2).tolist()
    [0.6666666865348816, 0.6666666865348816, 0.6666666865348816, 2.0]
    """
    if classes == 0:
        raise InputError("balanced=True: labels that are numbers have no classes to balance.")
    counts = torch.zeros(classes).scatter_add_(0, labels.long(), mask)
    return mask * (mask.sum() / (classes * counts.clamp_min(1)))[labels.long()]


@dataclass(frozen=True, eq=False)
class Linear:
    """Probes ``x @ weight + bias`` of every cell and task, in units of the activation."""

    weight: Float[Tensor, "cell task output d"]
    bias: Float[Tensor, "cell task output"]

    def outputs(self, x: Float[Tensor, "cell example d"]) -> Float[Tensor, "cell task example output"]:
        """The numbers that decide: logits of a logistic probe, predictions of a regression."""
        return self.by_output(x).transpose(2, 3)

    def by_output(self, x: Float[Tensor, "cell example d"]) -> Float[Tensor, "cell task output example"]:
        """The same with the examples last: one matrix product for all tasks."""
        made = self.weight.flatten(1, 2) @ x.to(self.weight).transpose(1, 2)
        return made.reshape(*self.weight.shape[:3], -1) + self.bias[..., None]
