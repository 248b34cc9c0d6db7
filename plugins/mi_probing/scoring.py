"""How good probes are on examples that they have not seen, how certain that is, and whether their odds are right."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mi_core.errors import InputError

__all__ = ["calibration_error", "chosen", "gains", "losses", "reliability", "score", "score_interval"]

RESAMPLES = 2000


def chosen(outputs: Float[Tensor, "*rows output"]) -> Int[Tensor, "*rows"]:
    """The class that outputs choose.

    >>> chosen(torch.tensor([[-1.0], [2.0]])).tolist()
    [0, 1]
    """
    return (outputs[..., 0] > 0).long() if outputs.shape[-1] == 1 else outputs.argmax(-1)


def losses(
    outputs: Float[Tensor, "cell task example output"],
    labels: Shaped[Tensor, "task example"],
    classes: int,
    logits: bool,
) -> Float[Tensor, "cell task example"]:
    """What each example costs: nats of logits, else squared errors (of classes from -1 and 1)."""
    if classes == 0:
        return (outputs[..., 0] - labels) ** 2
    if classes == 2:
        sign = 2 * labels.to(outputs) - 1
        return torch.nn.functional.softplus(-sign * outputs[..., 0]) if logits else (outputs[..., 0] - sign) ** 2
    member = torch.nn.functional.one_hot(labels.long(), classes).to(outputs)
    if logits:
        return -(outputs.log_softmax(-1) * member).sum(-1)
    return ((outputs - (2 * member - 1)) ** 2).sum(-1)


def gains(
    outputs: Float[Tensor, "*cells example output"], labels: Shaped[Tensor, "example"], classes: int
) -> tuple[Float[Tensor, "*cells example"], Float[Tensor, "example"]]:
    """What each example adds to the score, and to what it is divided by: the score is the ratio of their sums.

    For classes that is the accuracy; for numbers R², the part of the variance that is explained.
    """
    if classes:
        return (chosen(outputs) == labels).to(outputs), torch.ones(len(labels)).to(outputs)
    spread = (labels - labels.mean()) ** 2
    return spread - (outputs[..., 0] - labels) ** 2, spread.to(outputs)


def score(outputs: Float[Tensor, "*cells example output"], labels: Shaped[Tensor, "example"], classes: int) -> Tensor:
    """The accuracy, or R² where labels are numbers."""
    gained, most = gains(outputs, labels, classes)
    return gained.sum(-1) / most.sum()


def score_interval(
    gained: Float[Tensor, "*cells example"],
    most: Float[Tensor, "example"],
    groups: Int[Tensor, "example"],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Float[Tensor, "2 *cells"]:
    """Between which numbers does the score lie? Whole groups are drawn with replacement; NaN where there is only one.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13; by clusters: Davison and Hinkley
    1997, "Bootstrap Methods and their Application", section 3.8.
    """
    names, member = torch.unique(groups, return_inverse=True)
    count = len(names)
    if count < 2:
        return gained.new_full((2, *gained.shape[:-1]), torch.nan)
    summed = gained.new_zeros(*gained.shape[:-1], count).index_add_(-1, member, gained)
    sizes = most.new_zeros(count).index_add_(0, member, most)
    drawn = torch.randint(count, (RESAMPLES, count), generator=torch.Generator().manual_seed(seed))
    weights = torch.zeros(RESAMPLES, count).scatter_add_(1, drawn, torch.ones(RESAMPLES, count)).to(gained)
    ratios = (summed @ weights.T) / (weights @ sizes).clamp_min(torch.finfo(gained.dtype).tiny)
    levels = torch.tensor([(1 - level) / 2, (1 + level) / 2]).to(gained)
    return torch.quantile(ratios, levels, dim=-1)


def reliability(
    probabilities: Float[Tensor, "*cells example class"], labels: Int[Tensor, "example"], bins: int = 10
) -> tuple[Float[Tensor, "*cells bin"], Float[Tensor, "*cells bin"], Float[Tensor, "*cells bin"]]:
    """Of predictions as confident as each bin: the mean confidence, the share that is right, and how many there are.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2; bins of equal width.
    """
    if bins < 1:
        raise InputError(f"bins={bins}: give at least one.")
    confidence, said = probabilities.max(-1)
    place = (confidence * bins).long().clamp(0, bins - 1)
    member = torch.nn.functional.one_hot(place, bins).to(confidence)
    counts = member.sum(-2)
    sure = (member * confidence[..., None]).sum(-2) / counts
    right = (member * (said == labels).to(confidence)[..., None]).sum(-2) / counts
    return sure, right, counts


def calibration_error(
    probabilities: Float[Tensor, "*cells example class"], labels: Int[Tensor, "example"], bins: int = 10
) -> Float[Tensor, "*cells"]:
    """How far confidence is from being right, on average over predictions: the expected calibration error."""
    sure, right, counts = reliability(probabilities, labels, bins)
    gap = ((sure - right).abs() * counts).nan_to_num(0.0)
    return gap.sum(-1) / counts.sum(-1)


def majority(labels: Shaped[Tensor, "example"], used: Bool[Tensor, "example"], test: Bool[Tensor, "example"]) -> float:
    """The accuracy on the test of always saying the commonest class of the other part.

    >>> majority(torch.tensor([0, 0, 1, 1]), torch.tensor([1, 1, 1, 0]).bool(), torch.tensor([0, 0, 0, 1]).bool())
    0.0
    """
    return float((labels[test] == labels[used].mode().values).float().mean())
