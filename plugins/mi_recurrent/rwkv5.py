"""RWKV-5.2's time-mix: a state for each head with a decay that is learned once, and an output gate.

Source: Peng et al. 2024, arXiv:2404.05892 (Eagle); the reference code that RWKV/rwkv-5-world models come with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear, silu

from mi_core.blueprint import empty
from mi_core.protocols import Batch, Memory, Tap
from mi_recurrent.time_mix import TimeMix, wide
from mi_recurrent.wkv6 import WKV6

__all__ = ["GATED_POINTS", "RWKV5TimeMix", "RWKV5TimeMixModule"]

GATED_POINTS = (
    *("mixer.hook_in", "mixer.hook_shift", "mixer.hook_r", "mixer.hook_log_decay", "mixer.hook_k", "mixer.hook_v"),
    *("mixer.hook_g", "mixer.hook_write_gate", "mixer.hook_state", "mixer.hook_effective_attn", "mixer.hook_wkv"),
    *("mixer.hook_z", "mixer.hook_out"),
)
MATRICES = ("receptance", "key", "value", "gate")


@dataclass(frozen=True)
class RWKV5TimeMix:
    """``eps`` is of the norm over each head: 1e-5 times the square of the config's ``head_size_divisor``."""

    n_heads: int
    eps: float = 64e-5

    def build(self, d_model: int) -> RWKV5TimeMixModule:
        """The module."""
        return RWKV5TimeMixModule(self, d_model)


class RWKV5TimeMixModule(TimeMix):
    """See `RWKV5TimeMix`."""

    kernel = WKV6()
    points = GATED_POINTS

    def __init__(self, spec: RWKV5TimeMix, d_model: int) -> None:
        super().__init__(d_model, spec.n_heads)
        self.eps = spec.eps
        for name in MATRICES:
            self.register_parameter(f"time_mix_{name}", empty(1, 1, d_model))
        self.time_decay = empty(spec.n_heads, self.d_head)
        self.add_common()

    def add_common(self) -> None:
        """What versions 5 and 6 share."""
        self.time_faaaa = empty(self.n_heads, self.d_head)
        for name in (*MATRICES, "output"):
            self.register_parameter(f"{name}_weight", empty(self.d_model, self.d_model))
        self.ln_x_weight, self.ln_x_bias = empty(self.d_model), empty(self.d_model)

    def mix(
        self,
        x: Float[Tensor, "batch pos d_model"],
        side: Mapping[str, Tensor],
        batch: Batch,
        tap: Tap,
        memory: Memory | None,
    ) -> tuple[Float[Tensor, "batch kept d_model"], Mapping[str, Tensor], Memory | None]:
        """Its own output, the side channels as they were, and what it remembers."""
        own: Mapping[str, Any] = self._parameters
        past = self.recall(memory, batch)
        x = tap("mixer.hook_in", x)
        left, before = self.shifted(x, tap, past)
        inputs, log_decay = self.mixed(x, before)
        r = tap("mixer.hook_r", self.heads(linear(inputs["receptance"], own["receptance_weight"])))
        log_decay = tap("mixer.hook_log_decay", log_decay)
        k = tap("mixer.hook_k", self.heads(linear(inputs["key"], own["key_weight"])))
        v = tap("mixer.hook_v", self.heads(linear(inputs["value"], own["value_weight"])))
        g = tap("mixer.hook_g", self.heads(silu(linear(inputs["gate"], own["gate_weight"]))))
        gate = self.gate(k, tap)
        key, value = wide(k), wide(v)
        # the token sees itself by its own factor, whatever it writes
        recurrence = (wide(r), log_decay, value, key * wide(own["time_faaaa"]), key * gate)
        read, remembered = self.run(recurrence, value, left, past, batch, tap)
        return self.output(self.normed(read, self.eps).to(x.dtype) * g, batch, tap), side, remembered

    def mixed(
        self, x: Float[Tensor, "batch pos d_model"], before: Float[Tensor, "batch pos d_model"]
    ) -> tuple[Mapping[str, Float[Tensor, "batch pos d_model"]], Float[Tensor, "batch pos head d_head"]]:
        """What each matrix reads, and the log decay. The learned mix is the share of the current token."""
        own: Mapping[str, Any] = self._parameters
        inputs = {name: before + (x - before) * own[f"time_mix_{name}"] for name in MATRICES}
        log_decay = -wide(own["time_decay"]).exp()
        return inputs, log_decay.expand(*x.shape[:2], -1, -1)
