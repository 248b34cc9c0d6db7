"""Mamba's mixer: every channel has a state of its own, each number of which decays at its own rate.

A channel is a head with one value. Source: Gu and Dao 2023, arXiv:2312.00752; transformers 5.24, MambaMixer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear, softplus

from mi_core.blueprint import empty
from mi_recurrent.mixer import wide
from mi_recurrent.state_space import Selected, StateSpaceModule

__all__ = ["Mamba", "MambaModule"]


@dataclass(frozen=True)
class Mamba:
    """``d_inner`` channels with a state of ``d_state`` numbers; step sizes come through ``rank`` numbers."""

    d_inner: int
    d_state: int
    rank: int
    width: int = 4
    bias: bool = False
    conv_bias: bool = True
    norm_eps: float | None = None
    """Of norms without gain over step sizes, B and C, where there are any. Source: transformers 5.24, FalconMamba."""

    def build(self, d_model: int) -> MambaModule:
        """The module."""
        return MambaModule(self, d_model)


class MambaModule(StateSpaceModule):
    """See `Mamba`."""

    kind = "selective"

    def __init__(self, spec: Mamba, d_model: int) -> None:
        heads = (spec.d_inner, spec.d_state, 1)
        super().__init__(d_model, heads, spec.d_inner, spec.width, spec.bias, spec.conv_bias)
        self.spec, self.sizes = spec, [spec.rank, spec.d_state, spec.d_state]
        self.select_weight = empty(sum(self.sizes), spec.d_inner)
        self.step_weight, self.step_bias = empty(spec.d_inner, spec.rank), empty(spec.d_inner)
        self.rate_weight = empty(spec.d_inner, spec.d_state)

    def selected(
        self, x: Float[Tensor, "batch pos d_model"], mixed: Float[Tensor, "batch pos channel"]
    ) -> tuple[Float[Tensor, "batch pos head 1"], Selected]:
        """Values, and what the token chooses; all channels write and read by the same vectors."""
        low, b, c = (self.normed(part) for part in torch.split(linear(mixed, self.select_weight), self.sizes, -1))
        dt = linear(low, self.step_weight)
        dt = dt + self.step_bias.to(dt.dtype)
        every = (*mixed.shape, self.d_key)
        return mixed[..., None], Selected(dt, b[:, :, None].expand(every), c[:, :, None].expand(every))

    def normed(self, x: Float[Tensor, "batch pos _"]) -> Float[Tensor, "batch pos _"]:
        """Through the norm, where there is one."""
        if self.spec.norm_eps is None:
            return x
        broad = wide(x)
        return (broad * torch.rsqrt(broad.square().mean(-1, keepdim=True) + self.spec.norm_eps)).to(x.dtype)

    def step_size(self, dt: Float[Tensor, "batch pos head"]) -> Float[Tensor, "batch pos head"]:
        """The step size, above zero."""
        return softplus(dt)

    def log_decay(self, dt: Float[Tensor, "batch pos head"]) -> Float[Tensor, "batch pos head d_key"]:
        """What a step of this size leaves of each number of the state, as a logarithm, float32."""
        return -wide(self.rate_weight).exp() * dt[..., None]

    def gated(
        self, y: Float[Tensor, "batch pos head 1"], gate: Float[Tensor, "batch pos head 1"]
    ) -> Float[Tensor, "batch pos head 1"]:
        """Through the gate."""
        return y * gate
