"""Mamba-2's mixer: heads whose states decay as a whole; keys and queries are shared by groups of heads.

Source: Dao and Gu 2024, arXiv:2405.21060; transformers 5.24, Mamba2Mixer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear, softplus

from mi_core.blueprint import empty
from mi_recurrent.mixer import wide
from mi_recurrent.state_space import Selected, StateSpaceModule

__all__ = ["Mamba2", "Mamba2Module"]


@dataclass(frozen=True)
class Mamba2:
    """``n_heads`` heads with a state ``[d_state d_value]``; ``n_groups`` groups of them share B and C, and a norm."""

    n_heads: int
    d_value: int
    d_state: int
    n_groups: int = 1
    width: int = 4
    bias: bool = False
    conv_bias: bool = True
    eps: float = 1e-5
    """Of the norm over each group's output."""
    limits: tuple[float, float] = (0.0, math.inf)
    """Step sizes are kept between these."""

    def build(self, d_model: int) -> Mamba2Module:
        """The module."""
        return Mamba2Module(self, d_model)


class Mamba2Module(StateSpaceModule):
    """See `Mamba2`."""

    kind = "ssm"

    def __init__(self, spec: Mamba2, d_model: int) -> None:
        d_inner, shared = spec.n_heads * spec.d_value, spec.n_groups * spec.d_state
        heads = (spec.n_heads, spec.d_state, spec.d_value)
        super().__init__(d_model, heads, d_inner + 2 * shared, spec.width, spec.bias, spec.conv_bias)
        self.spec, self.sizes = spec, [d_inner, shared, shared]
        self.register_parameter("step_weight", empty(spec.n_heads, d_model))
        self.register_parameter("step_bias", empty(spec.n_heads) if spec.bias else None)
        self.decay_bias, self.rate_weight = empty(spec.n_heads), empty(spec.n_heads)
        self.norm_weight = empty(d_inner)

    def selected(
        self, x: Float[Tensor, "batch pos d_model"], mixed: Float[Tensor, "batch pos channel"]
    ) -> tuple[Float[Tensor, "batch pos head d_value"], Selected]:
        """Values, and what the token chooses."""
        v, b, c = torch.split(mixed, self.sizes, -1)
        dt = linear(x, self.get_parameter("step_weight"), self._parameters["step_bias"])
        dt = dt + self.decay_bias.to(dt.dtype)
        return v.view(*v.shape[:2], self.n_heads, self.d_value), Selected(dt, self.each_head(b), self.each_head(c))

    def each_head(self, x: Float[Tensor, "batch pos channel"]) -> Float[Tensor, "batch pos head d_key"]:
        """The vector of each head: a group shares one."""
        groups = x.view(*x.shape[:2], self.spec.n_groups, self.d_key)
        return groups.repeat_interleave(self.n_heads // self.spec.n_groups, 2)

    def step_size(self, dt: Float[Tensor, "batch pos head"]) -> Float[Tensor, "batch pos head"]:
        """The step size, between its limits."""
        return softplus(dt).clamp(*self.spec.limits)

    def log_decay(self, dt: Float[Tensor, "batch pos head"]) -> Float[Tensor, "batch pos head"]:
        """What a step of this size leaves of the state, as a logarithm, float32."""
        return -wide(self.rate_weight).exp() * dt

    def gated(
        self, y: Float[Tensor, "batch pos head d_value"], gate: Float[Tensor, "batch pos head d_value"]
    ) -> Float[Tensor, "batch pos head d_value"]:
        """Gate, then a norm over each group. Source: transformers 5.24, MambaRMSNormGated."""
        groups = (y * gate).reshape(*y.shape[:2], self.spec.n_groups, -1)
        normed = groups * torch.rsqrt(groups.square().mean(-1, keepdim=True) + self.spec.eps)
        return normed.view(y.shape) * self.norm_weight.view(y.shape[2:])
