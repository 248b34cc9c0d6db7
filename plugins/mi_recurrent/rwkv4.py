"""RWKV-4's time-mix: for each channel a mean of the values so far, weighted by keys that fade.

Source: Peng et al. 2023, arXiv:2305.13048; transformers 5.24, RwkvSelfAttention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from mi_core.blueprint import empty
from mi_core.protocols import Batch, Memory, Site, Tap
from mi_recurrent.sites import recurrent_site
from mi_recurrent.time_mix import TimeMix, wide
from mi_recurrent.wkv4 import WKV4

__all__ = ["RWKV4TimeMix", "RWKV4TimeMixModule"]

MATRICES = ("receptance", "key", "value")
NO_ARITHMETIC = (
    "it is a numerator, a denominator and the logarithm of a scale, which mean something together only: sums and "
    "multiples of them are no state"
)


@dataclass(frozen=True)
class RWKV4TimeMix:
    """All channels count as one head."""

    def build(self, d_model: int) -> RWKV4TimeMixModule:
        """The module."""
        return RWKV4TimeMixModule(d_model)


class RWKV4TimeMixModule(TimeMix):
    """See `RWKV4TimeMix`."""

    kernel = WKV4()
    kind = "channels"
    points = (
        *("mixer.hook_in", "mixer.hook_shift", "mixer.hook_r", "mixer.hook_log_decay", "mixer.hook_k", "mixer.hook_v"),
        *("mixer.hook_write_gate", "mixer.hook_state", "mixer.hook_effective_attn", "mixer.hook_wkv"),
        *("mixer.hook_z", "mixer.hook_out"),
    )

    def __init__(self, d_model: int) -> None:
        super().__init__(d_model, 1)
        for name in MATRICES:
            self.register_parameter(f"time_mix_{name}", empty(1, 1, d_model))
        self.time_decay, self.time_first = empty(d_model), empty(d_model)
        for name in (*MATRICES, "output"):
            self.register_parameter(f"{name}_weight", empty(d_model, d_model))

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Numerator, denominator and scale."""
        return (1, 3, self.d_head)

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
        inputs = {name: before + (x - before) * own[f"time_mix_{name}"] for name in MATRICES}
        r = tap("mixer.hook_r", self.heads(torch.sigmoid(linear(inputs["receptance"], own["receptance_weight"]))))
        decay = self.heads(-wide(own["time_decay"]).exp().expand(x.shape))
        log_decay = tap("mixer.hook_log_decay", decay)
        k = tap("mixer.hook_k", self.heads(linear(inputs["key"], own["key_weight"])))
        v = tap("mixer.hook_v", self.heads(linear(inputs["value"], own["value_weight"])))
        gate = self.gate(k, tap).expand(k.shape)
        key, value = wide(k), wide(v)
        recurrence = (log_decay, key, value, key + wide(own["time_first"]), gate)
        read, remembered = self.run(recurrence, value, left, past, batch, tap)
        return self.output(r * read.to(x.dtype), batch, tap), side, remembered

    def weighed(self, pattern: Float[Tensor, "batch _ query_pos key_pos"], values: Tensor) -> Tensor:
        """Each channel's weights times its values."""
        return torch.einsum("bcqk,bhkc->bhqc", pattern, values)

    def sites(self) -> Sequence[Site]:
        """From the input to the output, in firing order; no arithmetic on the state."""
        state = recurrent_site(
            "mixer.hook_state", self.kind, {"head": 1, "part": 3, "d_head": self.d_head}, NO_ARITHMETIC
        )
        return [state if offered.name == state.name else offered for offered in super().sites()]
