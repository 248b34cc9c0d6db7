"""The gated delta net: a state that decays as a whole, from which a token removes along its key before it writes there.

Source: Yang et al. 2024, arXiv:2412.06464, equation 10; transformers 5.24, Qwen3NextGatedDeltaNet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear, silu, softplus

from mi_core.blueprint import empty
from mi_core.protocols import Batch, Memory, Tap
from mi_recurrent.convolution import convolved
from mi_recurrent.memory import recall
from mi_recurrent.mixer import RecurrentMixer, wide
from mi_recurrent.wkv7 import WKV7

__all__ = ["GatedDeltaNet", "GatedDeltaNetModule"]

UNIT_EPS = 1e-6
"""Below the squared length of queries and keys. Source: transformers 5.24, qwen3_next, l2norm."""


@dataclass(frozen=True)
class GatedDeltaNet:
    """``n_heads`` heads, each with a state ``[d_key d_value]``; ``n_key_heads`` queries and keys are shared among them.

    Queries, keys and values go through a causal convolution over ``width`` tokens, each channel by itself.
    """

    n_heads: int
    n_key_heads: int
    d_key: int
    d_value: int
    width: int = 4
    eps: float = 1e-6
    """Of the norm over each head's output."""
    max_beta: float = 1.0
    """With 2, a token may turn what lies along its key. Source: transformers 5.24, OlmoHybridGatedDeltaNet."""

    def build(self, d_model: int) -> GatedDeltaNetModule:
        """The module."""
        return GatedDeltaNetModule(self, d_model)


class GatedDeltaNetModule(RecurrentMixer):
    """See `GatedDeltaNet`."""

    kernel = WKV7()
    kind = "delta"
    multiplies = ("qkv", "output_gate", "output")
    reads = ("qkv", "output_gate", "beta", "decay")
    keep_norm_biases = "has no biases of its own to take a norm's"
    points = (
        *("mixer.hook_in", "mixer.hook_shift", "mixer.hook_r", "mixer.hook_k", "mixer.hook_v", "mixer.hook_beta"),
        *("mixer.hook_log_decay", "mixer.hook_write_gate", "mixer.hook_state", "mixer.hook_effective_attn"),
        *("mixer.hook_wkv", "mixer.hook_g", "mixer.hook_z", "mixer.hook_out"),
    )

    def __init__(self, spec: GatedDeltaNet, d_model: int) -> None:
        super().__init__(d_model, spec.n_heads, spec.d_key, spec.d_value)
        self.spec = spec
        self.sizes = [spec.n_key_heads * spec.d_key] * 2 + [spec.n_heads * spec.d_value]
        """Of queries, keys and values, which lie behind each other."""
        self.qkv_weight = empty(sum(self.sizes), d_model)
        self.conv_weight = empty(sum(self.sizes), 1, spec.width)
        self.output_gate_weight = empty(spec.n_heads * spec.d_value, d_model)
        self.beta_weight, self.decay_weight = empty(spec.n_heads, d_model), empty(spec.n_heads, d_model)
        self.decay_bias, self.rate_weight = empty(spec.n_heads), empty(spec.n_heads)
        self.norm_weight = empty(spec.d_value)
        self.output_weight = empty(d_model, spec.n_heads * spec.d_value)

    def mix(
        self, x: Float[Tensor, "batch pos d_model"], batch: Batch, tap: Tap, memory: Memory | None
    ) -> tuple[Float[Tensor, "batch kept d_model"], Memory | None]:
        """Its own output, and what it remembers: states, and the last inputs of the convolution."""
        spec = self.spec
        state_shape = (spec.n_heads, spec.d_key, spec.d_value)
        past = recall(memory, batch, state=state_shape, shift=(spec.width - 1, sum(self.sizes))) or {}
        x = tap("mixer.hook_in", x)
        mixed, shift = convolved(linear(x, self.qkv_weight), self.conv_weight, None, past.get("shift"), batch, tap)
        q, k, v = torch.split(silu(mixed), self.sizes, -1)
        r = tap("mixer.hook_r", self.each_head(unit(self.key_heads(q)) * spec.d_key**-0.5))
        k = tap("mixer.hook_k", self.each_head(unit(self.key_heads(k))))
        v = tap("mixer.hook_v", v.view(*v.shape[:2], spec.n_heads, spec.d_value))
        beta = tap("mixer.hook_beta", torch.sigmoid(linear(x, self.beta_weight)) * spec.max_beta)
        log_decay = tap("mixer.hook_log_decay", self.log_decay(x))[..., None]
        erased = k * wide(beta)[..., None]
        inputs = (r, log_decay, erased * self.gate(k, tap), wide(v), -k * log_decay.exp(), erased)
        read, state, recurred = self.recurred(inputs, inputs[3], past.get("state"), batch, tap)
        z = self.gated(read, x, tap)
        return self.output(z, batch, tap), self.snapshots(state, recurred, shift, batch, x.shape[1])

    def key_heads(self, x: Float[Tensor, "batch pos channel"]) -> Float[Tensor, "batch pos key_head d_key"]:
        """Split into the heads of queries and keys."""
        return x.view(*x.shape[:2], self.spec.n_key_heads, self.spec.d_key)

    def each_head(self, x: Float[Tensor, "batch pos key_head d_key"]) -> Float[Tensor, "batch pos head d_key"]:
        """The query or key of each head: neighbouring heads share one."""
        times = self.spec.n_heads // self.spec.n_key_heads
        return x if times == 1 else x.repeat_interleave(times, 2)

    def log_decay(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos head"]:
        """``-exp(rate) softplus(W x + b)``, float32. Source: Gu and Dao 2023, arXiv:2312.00752, section 3.6."""
        return -wide(self.rate_weight).exp() * softplus(wide(linear(x, self.decay_weight)) + self.decay_bias)

    def gated(
        self, read: Float[Tensor, "batch pos head d_value"], x: Float[Tensor, "batch pos d_model"], tap: Tap
    ) -> Float[Tensor, "batch pos head d_value"]:
        """Each head through its norm, then times its gate; rounded where the reference rounds.

        Source: transformers 5.24, Qwen3NextRMSNormGated.
        """
        own = wide(read.to(x.dtype))
        normed = own * torch.rsqrt(own.square().mean(-1, keepdim=True) + self.spec.eps)
        gate = silu(wide(linear(x, self.output_gate_weight)).view(read.shape))
        return (self.norm_weight * normed.to(x.dtype) * tap("mixer.hook_g", gate)).to(x.dtype)

    def site_sizes(self) -> dict[str, int]:
        """The sizes of its sites' dims."""
        return {**super().site_sizes(), "lag": self.spec.width - 1, "d_conv": sum(self.sizes)}

    def weights(self) -> Mapping[str, Tensor]:
        """``W_R``, ``W_K``: ``[key_head d_model d_key]``; ``W_V``, ``W_G``: ``[head d_model d_value]``; ``W_O``."""
        widths = {"R": self.d_key, "K": self.d_key, "V": self.d_value, "G": self.d_value}
        parts = (*torch.split(self.qkv_weight, self.sizes), self.output_gate_weight)
        found = {
            f"mixer.W_{letter}": part.view(-1, width, self.d_model).transpose(1, 2)
            for part, (letter, width) in zip(parts, widths.items(), strict=True)
        }
        return {**found, "mixer.W_O": self.output_weight.view(self.d_model, -1, self.d_value).permute(1, 2, 0)}


def unit(x: Float[Tensor, "*lead d_key"]) -> Float[Tensor, "*lead d_key"]:
    """Of length one, in float32."""
    broad = wide(x)
    return broad * torch.rsqrt(broad.square().sum(-1, keepdim=True) + UNIT_EPS)
