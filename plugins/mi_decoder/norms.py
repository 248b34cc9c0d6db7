"""Norms: by the root mean square, or by mean and variance, with every gain of `mi_decoder.gains`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mi_core.blueprint import empty
from mi_core.protocols import Site, Tap
from mi_core.vocabulary import site
from mi_decoder.gains import Gain, WideGain

__all__ = ["LayerNorm", "LayerNormModule", "RMSNorm", "RMSNormModule"]


@dataclass(frozen=True)
class RMSNorm:
    """Divides by the root of the mean square, then multiplies by the gain.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467; transformers 5.24, LlamaRMSNorm (the place of the rounding).
    """

    eps: float = 1e-6
    gain: Gain = field(default_factory=Gain)

    def build(self, d_model: int, name: str, rows: int | None = None) -> RMSNormModule:
        """The module for the slot ``name``; with a gain for each of ``rows`` rows of the input if wanted."""
        return RMSNormModule(self, d_model, name, rows)


@dataclass(frozen=True)
class LayerNorm:
    """Takes the mean away, divides by the standard deviation, multiplies by the gain, adds the bias.

    Source: Ba et al. 2016, arXiv:1607.06450; torch.nn.functional.layer_norm.
    """

    eps: float = 1e-5
    gain: Gain = field(default_factory=WideGain)
    bias: bool = True

    def build(self, d_model: int, name: str, rows: int | None = None) -> LayerNormModule:
        """The module for the slot ``name``; with a gain for each of ``rows`` rows of the input if wanted."""
        return LayerNormModule(self, d_model, name, rows)


class RMSNormModule(nn.Module):
    """A root-mean-square norm."""

    def __init__(self, spec: RMSNorm | LayerNorm, d_model: int, name: str, rows: int | None = None) -> None:
        super().__init__()
        shape = (d_model,) if rows is None else (rows, d_model)
        self.register_parameter("weight", empty(*shape) if spec.gain.learned else None)
        self.register_parameter("bias", empty(*shape) if isinstance(spec, LayerNorm) and spec.bias else None)
        self.eps = spec.eps
        self.gain = spec.gain
        self.name = name
        self.dims = (d_model,)
        self.rows = rows
        self.scale_site = f"{name}.hook_scale"
        self.normalized_site = f"{name}.hook_normalized"

    def normalise(self, x: Float[Tensor, "*batch d_model"], tap: Tap) -> Float[Tensor, "*batch d_model"]:
        """The normed input, gain and bias included; the sites are float32, as they are computed."""
        if not tap.wants(self.scale_site, self.normalized_site):
            return self.plain(x)
        wide = self.centred(x if x.dtype is torch.float64 else x.float())
        scale = tap(self.scale_site, (wide.pow(2).mean(-1, keepdim=True) + self.eps).sqrt())
        normalized = tap(self.normalized_site, wide / scale)
        if not tap.edits(self.scale_site, self.normalized_site):
            # only read: what the model goes on with is the same, bit for bit, as when nobody looks
            return self.plain(x)
        return self.gain.apply(normalized, self._parameters["weight"], self._parameters["bias"], x.dtype)

    def centred(self, wide: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """What is divided."""
        return wide

    def plain(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The same with nobody looking."""
        weight = self._parameters["weight"]  # spares a Python call
        if self.rows is None and (x.dtype is torch.float32 or x.dtype is torch.float64):
            # one fused kernel, bit-equal to the reference's order on CPU
            factor = None if weight is None else self.gain.factor(weight).to(x.dtype)
            return torch.rms_norm(x, self.dims, factor, self.eps)
        return self.written_out(x)

    def written_out(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The same, step by step, in the reference's order."""
        wide = self.centred(x if x.dtype is torch.float64 else x.float())
        normalized = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.gain.apply(normalized, self._parameters["weight"], self._parameters["bias"], x.dtype)

    def sites(self) -> Sequence[Site]:
        """Denominator and output before the gain."""
        return (site(self.scale_site), site(self.normalized_site, d_model=self.dims[0]))

    def weights(self) -> Mapping[str, Tensor]:
        """The gain, which is the factor that really multiplies, and the bias."""
        weight, bias = self._parameters["weight"], self._parameters["bias"]
        found = {} if weight is None else {f"{self.name}.w": self.gain.factor(weight)}
        return found if bias is None else {**found, f"{self.name}.b": bias}


class LayerNormModule(RMSNormModule):
    """A norm by mean and variance."""

    def centred(self, wide: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """What is divided."""
        return wide - wide.mean(-1, keepdim=True)

    def plain(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The same with nobody looking."""
        if self.rows is not None:
            return self.written_out(x)
        weight, bias = self._parameters["weight"], self._parameters["bias"]
        factor = None if weight is None else self.gain.factor(weight).to(x.dtype)
        return torch.layer_norm(x, self.dims, factor, bias, self.eps)
