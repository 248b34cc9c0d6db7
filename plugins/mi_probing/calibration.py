"""Odds that are right: a probe's outputs scaled, of two classes shifted, until they are logits of held-out examples.

Source: Platt 1999, "Probabilistic Outputs for Support Vector Machines", with his softened targets; of several classes a
temperature: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_core.errors import InputError
from mi_probing.scoring import losses
from mi_probing.splits import folds_of

__all__ = ["Scale", "scale_of"]

FEWEST = 10
"""Held-out examples that each class needs: fewer say nothing about odds beyond one in ten."""
FOLDS = 5


@dataclass(frozen=True)
class Scale:
    """Outputs times ``factor``, plus ``shift``, are logits."""

    factor: float
    shift: float
    before: float
    """The mean loss of held-out examples as they were, nats."""
    after: float
    """The same, each example scaled by what the others of five folds say."""
    examples: int

    def __str__(self) -> str:
        return (
            f"outputs times {self.factor:.3g}{f' plus {self.shift:.3g}' if self.shift else ''}, by {self.examples} "
            f"held-out examples: log loss {self.before:.3g} before, {self.after:.3g} behind (over {FOLDS} folds)"
        )


def scale_of(
    outputs: Float[Tensor, "example output"],
    labels: Int[Tensor, "example"],
    groups: Int[Tensor, "example"],
    classes: int,
) -> Scale:
    """The scale at which held-out examples are likeliest, and what it is worth on examples that it was not fitted on.

    Raises:
        InputError: a class with too few examples, or with too few groups for the folds; outputs that say the opposite.
    """
    counts = torch.bincount(labels, minlength=classes)
    if int(counts.min()) < FEWEST:
        raise InputError(
            f"calibration by {counts.tolist()} held-out examples of the classes: {FEWEST} of each are the least. Hold "
            "more out, or leave the odds as they are.",
            counts=tuple(counts.tolist()),
        )
    outputs = outputs.double()
    everything = torch.ones(len(labels), dtype=torch.bool)
    fold = folds_of(groups, labels, everything, FOLDS)
    scaled = torch.empty_like(outputs)
    for number in range(FOLDS):
        factor, shift = fitted(outputs[fold != number], labels[fold != number])
        scaled[fold == number] = outputs[fold == number] * factor + shift
    factor, shift = fitted(outputs, labels)
    if factor <= 0:
        raise InputError(
            f"the held-out examples say the opposite of the probe (a factor of {factor:.3g}): it has learned nothing "
            "that holds for them, and no scale repairs that.",
            factor=factor,
        )
    before, after = (float(loss(made, labels)) for made in (outputs, scaled))
    return Scale(factor, shift, before, after, len(labels))


def loss(outputs: Float[Tensor, "example output"], labels: Int[Tensor, "example"]) -> Float[Tensor, ""]:
    """The mean loss, nats."""
    classes = max(2, outputs.shape[1])
    return losses(outputs[None, None], labels[None], classes, True).mean()


def fitted(outputs: Float[Tensor, "example output"], labels: Int[Tensor, "example"]) -> tuple[float, float]:
    """Factor and shift (0 of several classes), by Newton's method with halved steps: the loss is convex in both."""
    single = outputs.shape[1] == 1
    if single:  # as two outputs, of which the first is zero
        one = torch.cat([outputs, torch.ones_like(outputs)], 1)
        parts = torch.stack([torch.zeros_like(one), one], 1)
        second = softened(labels)
        target = torch.stack([1 - second, second], 1)
    else:
        parts = outputs[..., None]
        target = torch.nn.functional.one_hot(labels, outputs.shape[1]).double()

    def mean_loss(at: Float[Tensor, "number"]) -> float:
        return float(-((parts @ at).log_softmax(-1) * target).sum(-1).mean())

    at = torch.zeros(parts.shape[-1], dtype=torch.float64)  # where the loss bends most
    for _ in range(100):
        p = (parts @ at).softmax(-1)
        slope = torch.einsum("ek,ekn->n", p - target, parts) / len(parts)
        if float(slope.abs().max()) < 1e-9:
            break
        mean = torch.einsum("ek,ekn->en", p, parts)
        curvature = (torch.einsum("ek,ekn,ekm->nm", p, parts, parts) - mean.T @ mean) / len(parts)
        step, here, size = (
            torch.linalg.solve(curvature + 1e-12 * torch.eye(len(at)).double(), slope),
            mean_loss(at),
            1.0,
        )
        while size > 1e-8 and mean_loss(at - size * step) > here:
            size /= 2
        at = at - size * step
    return float(at[0]), float(at[1]) if single else 0.0


def softened(labels: Int[Tensor, "example"]) -> Float[Tensor, "example"]:
    """Platt's targets: not quite 0 and 1, so that separable examples have a finite scale."""
    second = float(labels.sum())
    first = len(labels) - second
    return torch.where(labels > 0, (second + 1) / (second + 2), 1 / (first + 2)).double()
