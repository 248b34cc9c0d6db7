"""What happens to values between their projection and the pattern, where something does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["NormedValues", "ScaledValues", "ValueChange"]


@runtime_checkable
class ValueChange(Protocol):
    """What values become before they are mixed; ``site`` is where they are offered behind it."""

    @property
    def site(self) -> str:
        """A standard site."""
        ...

    def __call__(self, v: Float[Tensor, "batch pos kv_head d_value"]) -> Float[Tensor, "batch pos kv_head d_value"]:
        """The values that are mixed."""
        ...


@dataclass(frozen=True)
class ScaledValues:
    """All values times one factor. Source: transformers 5.24, MiMoV2FlashAttention."""

    factor: float
    site: ClassVar[str] = "attn.hook_v_scaled"

    def __call__(self, v: Float[Tensor, "batch pos kv_head d_value"]) -> Float[Tensor, "batch pos kv_head d_value"]:
        """The values that are mixed."""
        return v * self.factor


@dataclass(frozen=True)
class NormedValues:
    """Each head's values over the root of their mean square, without a gain.

    Source: transformers 5.24, Gemma4TextAttention (v_norm).
    """

    eps: float
    site: ClassVar[str] = "attn.hook_v_normed"

    def __call__(self, v: Float[Tensor, "batch pos kv_head d_value"]) -> Float[Tensor, "batch pos kv_head d_value"]:
        """The values that are mixed; the norm is computed in float32 at least."""
        wide = v.to(torch.promote_types(v.dtype, torch.float32))
        return (wide * (wide.pow(2).mean(-1, keepdim=True) + self.eps).pow(-0.5)).to(v.dtype)
