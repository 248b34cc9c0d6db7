"""The three matrices of a ReLU network, and how to run many inputs through them with nothing in between."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

import mi_core as mi
from mi_core.errors import UnsupportedAnalysis

__all__ = ["RNNWeights"]


@dataclass(frozen=True, eq=False)
class RNNWeights:
    """What a network computes: ``h_t = relu(w_ih x_t + w_hh h_{t-1})`` from zeros, then ``w_oh h_n``."""

    w_ih: Float[Tensor, "unit"]
    w_hh: Float[Tensor, "unit unit"]
    """``[to from]``."""
    w_oh: Float[Tensor, "out unit"]
    steps: int
    """Numbers that it reads."""

    @classmethod
    def of(cls, model: mi.Model) -> RNNWeights:
        """The weights of a model, in float64.

        Raises:
            UnsupportedAnalysis: it is none of these networks.
        """
        if model.shape.numbers is None or "mixer.hook_recurrent" not in {point.site.name for point in model.points}:
            raise UnsupportedAnalysis(
                f"{model.name} is no recurrent network of ReLU units that reads numbers: these tools take "
                'models of model_type "algzoo_rnn".',
                model=model.name,
            )
        w_ih, w_hh = model.weights["blocks.0.mixer.W_in"], model.weights["blocks.0.mixer.W_hh"]
        w_oh = model.weights["unembed.W_U"]
        return cls(w_ih[0].double(), w_hh.T.double(), w_oh.T.double(), model.shape.numbers)

    @property
    def units(self) -> int:
        """Hidden units."""
        return len(self.w_ih)

    @property
    def size(self) -> int:
        """Parameters."""
        return self.w_ih.numel() + self.w_hh.numel() + self.w_oh.numel()

    def __call__(self, x: Float[Tensor, "batch step"]) -> Float[Tensor, "batch out"]:
        """What comes out.

        Units lie before inputs, so that each step is one matrix product and one pass over its result, in place.

        >>> zero = RNNWeights(torch.ones(2), torch.zeros(2, 2), torch.eye(2), steps=3)
        >>> zero(torch.tensor([[5.0, -1.0, 2.0]])).tolist()
        [[2.0, 2.0]]
        """
        numbers = x.to(self.w_hh.dtype).T.contiguous()
        hidden = torch.outer(self.w_ih, numbers[0]).relu_()
        for number in numbers[1:]:
            hidden = torch.outer(self.w_ih, number).addmm_(self.w_hh, hidden).relu_()
        return (self.w_oh @ hidden).T

    def trace(self, x: Float[Tensor, "batch step"]) -> Float[Tensor, "step batch unit"]:
        """Every unit before its ReLU, at every step."""
        hidden, seen = x.new_zeros(len(x), self.units, dtype=self.w_hh.dtype), []
        for number in x.to(self.w_hh.dtype).T:
            pre = torch.outer(number, self.w_ih) + hidden @ self.w_hh.T
            seen.append(pre)
            hidden = pre.relu()
        return torch.stack(seen)

    def to(self, dtype: torch.dtype) -> RNNWeights:
        """The same in another dtype."""
        return RNNWeights(self.w_ih.to(dtype), self.w_hh.to(dtype), self.w_oh.to(dtype), self.steps)

    def without(self, *units: int) -> RNNWeights:
        """The network in which these units are zero at every step."""
        keep = torch.ones(self.units, dtype=self.w_hh.dtype)
        keep[list(units)] = 0
        return RNNWeights(self.w_ih * keep, self.w_hh * keep[:, None] * keep, self.w_oh * keep, self.steps)

    def rounded(self, bits: int) -> RNNWeights:
        """Each matrix rounded to ``2 ** bits`` levels between its largest absolute value and minus that."""
        return RNNWeights(level(self.w_ih, bits), level(self.w_hh, bits), level(self.w_oh, bits), self.steps)


def level(x: Tensor, bits: int) -> Tensor:
    """The nearest of ``2 ** bits - 1`` levels around zero."""
    most = 2 ** (bits - 1) - 1
    if most == 0:
        return torch.zeros_like(x)
    step = x.abs().max().clamp_min(torch.finfo(x.dtype).tiny) / most
    rounded: Tensor = (x / step).round() * step
    return rounded
