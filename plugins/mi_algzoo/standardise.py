"""Weights in a standard form: a ReLU unit may be scaled without changing what the network computes.

``relu(c z) = c relu(z)`` for c > 0, so that unit j may carry c_j times as much, if what it reads is multiplied by c_j
and what it writes is divided by it. The standard form makes every unit's own input weight 1 or -1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mi_algzoo.weights import RNNWeights

__all__ = ["Standardised", "standardised"]


@dataclass(frozen=True, eq=False)
class Standardised:
    """The network in standard form, and what was done."""

    weights: RNNWeights
    scale: Float[Tensor, "unit"]
    """What each unit's activation was divided by."""
    blind: tuple[int, ...]
    """Units that read no number themselves: nothing fixes their scale, so it is left as it was."""


def standardised(weights: RNNWeights) -> Standardised:
    """Which of all networks that compute the same has input weights of 1 and -1?

    The outputs are the same, up to rounding, for every input.

    >>> net = RNNWeights(torch.tensor([2.0, -4.0]), torch.eye(2), torch.ones(1, 2), steps=2)
    >>> standardised(net).weights.w_ih.tolist(), standardised(net).weights.w_oh.tolist()
    ([1.0, -1.0], [[2.0, 4.0]])
    """
    own = weights.w_ih.abs()
    blind = own <= torch.finfo(own.dtype).eps * own.max()
    scale = torch.where(blind, 1.0, own)
    made = RNNWeights(
        weights.w_ih / scale,
        weights.w_hh * scale / scale[:, None],
        weights.w_oh * scale,
        weights.steps,
    )
    return Standardised(made, scale, tuple(blind.nonzero()[:, 0].tolist()))
