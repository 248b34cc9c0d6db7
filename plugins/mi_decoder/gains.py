"""Gains: what a norm's output is multiplied by, and where it is rounded to the model's dtype on the way.

In float32 they differ by rounding at most; in bfloat16 the order shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Gain", "NoGain", "OnePlusGain", "WideGain"]


@dataclass(frozen=True)
class Gain:
    """Rounded first, then multiplied. Source: transformers 5.24, LlamaRMSNorm."""

    learned = True

    def factor(self, weight: Float[Tensor, "*dims"]) -> Float[Tensor, "*dims"]:
        """What really multiplies."""
        return weight

    def apply(
        self,
        normalized: Float[Tensor, "*batch d_model"],
        weight: Tensor | None,
        bias: Tensor | None,
        dtype: torch.dtype,
    ) -> Float[Tensor, "*batch d_model"]:
        """The norm's output in the model's dtype."""
        assert weight is not None
        out = weight * normalized.to(dtype)
        return out if bias is None else out + bias


@dataclass(frozen=True)
class WideGain(Gain):
    """Multiplied (and shifted) in float32, then rounded once.

    Source: transformers 5.24, Olmo2RMSNorm; torch.nn.functional.layer_norm rounds at the same place.
    """

    def apply(
        self,
        normalized: Float[Tensor, "*batch d_model"],
        weight: Tensor | None,
        bias: Tensor | None,
        dtype: torch.dtype,
    ) -> Float[Tensor, "*batch d_model"]:
        """The norm's output in the model's dtype."""
        out = normalized if weight is None else self.factor(weight).to(normalized.dtype) * normalized
        return (out if bias is None else out + bias.to(normalized.dtype)).to(dtype)


@dataclass(frozen=True)
class OnePlusGain(WideGain):
    """The stored gain is an offset from one. Source: transformers 5.24, GemmaRMSNorm."""

    def factor(self, weight: Float[Tensor, "*dims"]) -> Float[Tensor, "*dims"]:
        """One more than what is stored; in float32, so that nothing of it is rounded away."""
        return 1.0 + (weight if weight.dtype is torch.float64 else weight.float())


@dataclass(frozen=True)
class NoGain(WideGain):
    """Nothing multiplies."""

    learned = False
