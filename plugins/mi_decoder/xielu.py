"""xIELU: an activation whose two slopes a model learns, one pair for each layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from mi_core.blueprint import empty

__all__ = ["XIELU", "XIELUModule"]


@dataclass(frozen=True)
class XIELU:
    """A parabola above zero, an exponential that falls back to a line below.

    Source: Huang and Schlag 2024, arXiv:2411.13010; transformers 5.24, XIELUActivation.
    """

    def build(self, name: str) -> XIELUModule:
        """The module; ``name`` is what its weights start with."""
        return XIELUModule(name)


class XIELUModule(nn.Module):
    """The activation with its numbers; the slope at zero and the bound below it are stored, and are not learned."""

    alpha_p_weight: Tensor
    alpha_n_weight: Tensor
    beta_weight: Tensor
    eps_weight: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.alpha_p_weight, self.alpha_n_weight = empty(1), empty(1)
        self.register_buffer("beta_weight", torch.empty((), device="meta"))
        self.register_buffer("eps_weight", torch.empty((), device="meta"))

    def forward(self, x: Float[Tensor, "*batch d_mlp"]) -> Float[Tensor, "*batch d_mlp"]:
        """The neurons."""
        alpha_p, alpha_n = softplus(self.alpha_p_weight), self.beta_weight + softplus(self.alpha_n_weight)
        above = alpha_p * x * x + self.beta_weight * x
        below = (torch.expm1(torch.min(x, self.eps_weight)) - x) * alpha_n + self.beta_weight * x
        return torch.where(x > 0, above, below)

    def initialise(self) -> None:
        """Both curvatures 0.8, the slope at zero 0.5: the numbers of the paper."""
        self.alpha_p_weight.fill_(math.log(math.expm1(0.8)))
        self.alpha_n_weight.fill_(math.log(math.expm1(0.8 - 0.5)))
        self.beta_weight.fill_(0.5)
        self.eps_weight.fill_(-1e-6)

    def weights(self) -> Mapping[str, Tensor]:
        """The numbers as they are stored: before softplus."""
        names = ("alpha_p", "alpha_n", "beta", "eps")
        return {f"{self.name}.{name}": getattr(self, f"{name}_weight") for name in names}
