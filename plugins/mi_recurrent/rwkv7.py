"""RWKV-7's time-mix: a state from which each token removes along one key before it writes along another.

Source: Peng et al. 2025, arXiv:2503.14456; flash-linear-attention 0.6, RWKV7Attention.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from mi_core.blueprint import empty
from mi_core.protocols import Batch, Memory, Tap
from mi_recurrent.time_mix import TimeMix, wide
from mi_recurrent.wkv7 import WKV7

__all__ = ["RWKV7TimeMix", "RWKV7TimeMixModule"]

FASTEST = -math.exp(-0.5)
"""The strongest log decay."""
FIRST_VALUES = "v_first"


@dataclass(frozen=True)
class RWKV7TimeMix:
    """``d_model`` in heads of ``d_head``; the ranks are of the low-rank maps behind decay, removal, value mix, gate."""

    n_heads: int
    decay_rank: int
    a_rank: int
    v_rank: int | None
    """None in the first layer, whose values the others mix in."""
    gate_rank: int
    eps: float = 64e-5
    """Of the norm over each head."""
    fused_norm: bool = False
    """Whether the removal key is divided by ``sqrt(sum + 1e-6)``, or by its length if that is not tiny."""

    def build(self, d_model: int) -> RWKV7TimeMixModule:
        """The module."""
        return RWKV7TimeMixModule(self, d_model)


class RWKV7TimeMixModule(TimeMix):
    """See `RWKV7TimeMix`."""

    kernel = WKV7()

    def __init__(self, spec: RWKV7TimeMix, d_model: int) -> None:
        super().__init__(d_model, spec.n_heads)
        self.spec = spec
        mixed = () if spec.v_rank is None else ("mixer.hook_v_mix",)
        self.points = (
            *("mixer.hook_in", "mixer.hook_shift", "mixer.hook_r", "mixer.hook_log_decay", "mixer.hook_a"),
            *(*mixed, "mixer.hook_v", "mixer.hook_kk", "mixer.hook_k", "mixer.hook_g", "mixer.hook_write_gate"),
            *("mixer.hook_state", "mixer.hook_effective_attn", "mixer.hook_wkv", "mixer.hook_bonus"),
            *("mixer.hook_z", "mixer.hook_out"),
        )
        for name in "rwkvag":
            self.register_parameter(f"x_{name}", empty(1, 1, d_model))
        for name in ("receptance", "key", "value", "output"):
            self.register_parameter(f"{name}_weight", empty(d_model, d_model))
        ranks = (("w", spec.decay_rank), ("a", spec.a_rank), ("v", spec.v_rank), ("g", spec.gate_rank))
        for name, rank in ranks:
            if rank is not None:
                self.register_parameter(f"{name}_down_weight", empty(rank, d_model))
                self.register_parameter(f"{name}_up_weight", empty(d_model, rank))
                self.register_parameter(f"{name}_up_bias", None if name == "g" else empty(d_model))
        self.k_k, self.k_a = empty(d_model), empty(d_model)
        self.r_k = empty(spec.n_heads, self.d_head)
        self.ln_x_weight, self.ln_x_bias = empty(d_model), empty(d_model)

    def mix(
        self,
        x: Float[Tensor, "batch pos d_model"],
        side: Mapping[str, Tensor],
        batch: Batch,
        tap: Tap,
        memory: Memory | None,
    ) -> tuple[Float[Tensor, "batch kept d_model"], Mapping[str, Tensor], Memory | None]:
        """Its own output, the first layer's values on the side, and what it remembers."""
        own: Mapping[str, Any] = self._parameters
        past = self.recall(memory, batch)
        x = tap("mixer.hook_in", x)
        left, before = self.shifted(x, tap, past)
        away = before - x

        def mixed(name: str) -> Tensor:
            share: Tensor = own[f"x_{name}"]
            return x + away * share

        r = tap("mixer.hook_r", self.heads(linear(mixed("r"), own["receptance_weight"])))
        speed = self.low_rank("w", mixed("w"), torch.tanh)
        log_decay = tap("mixer.hook_log_decay", self.heads(FASTEST * torch.sigmoid(wide(speed))))
        a = tap("mixer.hook_a", self.heads(torch.sigmoid(self.low_rank("a", mixed("a")))))
        v, side = self.values(mixed("v"), side, tap)
        k = self.heads(linear(mixed("k"), own["key_weight"]))
        kk = tap("mixer.hook_kk", self.direction(k * self.heads(own["k_k"][None, None])))
        k = tap("mixer.hook_k", k * (1 + (a - 1) * self.heads(own["k_a"][None, None])))
        g = tap("mixer.hook_g", self.heads(self.low_rank("g", mixed("g"), torch.sigmoid)))
        gate = self.gate(k, tap)
        removal = wide(kk)
        inputs = (wide(r), log_decay, wide(k) * gate, wide(v), -removal, removal * wide(a))
        read, remembered = self.run(inputs, inputs[3], left, past, batch, tap)
        bonus = (wide(r) * wide(k) * wide(own["r_k"])).sum(-1, keepdim=True) * inputs[3]
        bonus = tap("mixer.hook_bonus", bonus)
        z = (self.normed(read, self.spec.eps) + bonus).to(x.dtype) * g
        return self.output(z, batch, tap), side, remembered

    def low_rank(self, name: str, x: Tensor, between: Any = None) -> Float[Tensor, "batch pos d_model"]:
        """Down, a function, up, a bias."""
        own: Mapping[str, Any] = self._parameters
        inner = linear(x, own[f"{name}_down_weight"])
        return linear(inner if between is None else between(inner), own[f"{name}_up_weight"], own[f"{name}_up_bias"])

    def values(
        self, x: Float[Tensor, "batch pos d_model"], side: Mapping[str, Tensor], tap: Tap
    ) -> tuple[Float[Tensor, "batch pos head d_head"], Mapping[str, Tensor]]:
        """The values, mixed with those of the first layer, which are kept on the side."""
        own: Mapping[str, Any] = self._parameters
        v = self.heads(linear(x, own["value_weight"]))
        if self.spec.v_rank is not None:
            share = tap("mixer.hook_v_mix", self.heads(torch.sigmoid(self.low_rank("v", x))))
            return tap("mixer.hook_v", v + (side[FIRST_VALUES] - v) * share), side
        v = tap("mixer.hook_v", v)
        return v, {**side, FIRST_VALUES: v}

    def direction(self, k: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos head d_head"]:
        """Of length one. Source: flash-linear-attention 0.6: torch's normalize, or l2_norm if ``fuse_norm``."""
        broad = wide(k)
        if self.spec.fused_norm:
            return (broad * torch.rsqrt(broad.square().sum(-1, keepdim=True) + 1e-6)).to(k.dtype)
        return torch.nn.functional.normalize(broad, dim=-1, eps=1e-12).to(k.dtype)
