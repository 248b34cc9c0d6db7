"""Norms: root mean square, as LLaMA computes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mi_core.blueprint import empty
from mi_core.protocols import Site, Tap
from mi_core.vocabulary import site

__all__ = ["RMSNorm", "RMSNormModule"]


@dataclass(frozen=True)
class RMSNorm:
    """Divides by the root of the mean square, rounds to the model's dtype, then multiplies by the gain.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467; transformers 5.24, LlamaRMSNorm (the place of the rounding).
    """

    eps: float = 1e-6

    def build(self, d_model: int, name: str) -> RMSNormModule:
        """The module for the slot ``name``."""
        return RMSNormModule(d_model, self.eps, name)


class RMSNormModule(nn.Module):
    """A root-mean-square norm with a gain."""

    def __init__(self, d_model: int, eps: float, name: str) -> None:
        super().__init__()
        self.weight = empty(d_model)
        self.eps = eps
        self.name = name
        self.dims = (d_model,)
        self.scale_site = f"{name}.hook_scale"
        self.normalized_site = f"{name}.hook_normalized"

    def normalise(self, x: Float[Tensor, "*batch d_model"], tap: Tap) -> Float[Tensor, "*batch d_model"]:
        """The input over its root mean square, times the gain; the sites are float32, as they are computed."""
        if not tap.wants(self.scale_site, self.normalized_site):
            return self.plain(x)
        wide = x if x.dtype is torch.float64 else x.float()
        scale = tap(self.scale_site, (wide.pow(2).mean(-1, keepdim=True) + self.eps).sqrt())
        normalized = tap(self.normalized_site, wide / scale)
        if not tap.edits(self.scale_site, self.normalized_site):
            # only read: what the model goes on with is the same, bit for bit, as when nobody looks
            return self.plain(x)
        return self.weight * normalized.to(x.dtype)

    def plain(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The same with nobody looking."""
        weight: Tensor = self._parameters["weight"]  # type: ignore[assignment]  # spares a Python call
        if x.dtype is torch.float32 or x.dtype is torch.float64:
            # one fused kernel, bit-equal to the reference's order on CPU
            return torch.rms_norm(x, self.dims, weight, self.eps)
        wide = x.float()
        return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)

    def sites(self) -> Sequence[Site]:
        """Denominator and output before the gain."""
        return (site(self.scale_site), site(self.normalized_site, d_model=self.dims[0]))

    def weights(self) -> Mapping[str, Tensor]:
        """The gain, which is the factor that really multiplies."""
        return {f"{self.name}.w": self.weight}
