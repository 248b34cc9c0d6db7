"""State-space mixers: a convolution, a recurrence whose decay and writes depend on the token, and a gate.

In the terms of the other recurrences, ``r`` is C, ``k`` is B times the step size, and values are what the convolution
gives. Source: Gu and Dao 2023, arXiv:2312.00752; Dao and Gu 2024, arXiv:2405.21060.
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
from mi_recurrent.convolution import convolved
from mi_recurrent.gated_linear import GatedLinear
from mi_recurrent.memory import recall
from mi_recurrent.mixer import RecurrentMixer, wide

__all__ = ["Selected", "StateSpaceModule"]


@dataclass(frozen=True)
class Selected:
    """What a token chooses: the step size before its softplus, and by which vectors it writes and reads."""

    dt: Float[Tensor, "batch pos head"]
    b: Float[Tensor, "batch pos head d_key"]
    c: Float[Tensor, "batch pos head d_key"]


class StateSpaceModule(RecurrentMixer):
    """A state-space mixer; each version computes `Selected`, its decay and its gate."""

    kernel = GatedLinear()
    points = (
        *("mixer.hook_in", "mixer.hook_shift", "mixer.hook_v", "mixer.hook_dt", "mixer.hook_log_decay"),
        *("mixer.hook_r", "mixer.hook_k", "mixer.hook_write_gate", "mixer.hook_state", "mixer.hook_effective_attn"),
        *("mixer.hook_wkv", "mixer.hook_bonus", "mixer.hook_g", "mixer.hook_z", "mixer.hook_out"),
    )
    multiplies = ("inner", "output_gate", "output")
    keeps_norms = "has matrices whose names folding does not know yet"

    def __init__(
        self, d_model: int, heads: tuple[int, int, int], channels: int, width: int, bias: bool, conv_bias: bool
    ) -> None:
        """``heads``: how many, ``d_key``, ``d_value``; ``channels`` go through a convolution of ``width`` tokens."""
        super().__init__(d_model, *heads)
        d_inner = self.n_heads * self.d_value
        self.channels, self.width = channels, width
        for name, rows in (("inner", channels), ("output_gate", d_inner)):
            self.register_parameter(f"{name}_weight", empty(rows, d_model))
            self.register_parameter(f"{name}_bias", empty(rows) if bias else None)
        self.conv_weight = empty(channels, 1, width)
        self.register_parameter("conv_bias", empty(channels) if conv_bias else None)
        self.skip_weight = empty(self.n_heads)
        self.output_weight = empty(d_model, d_inner)
        self.register_parameter("output_bias", empty(d_model) if bias else None)

    def selected(
        self, x: Float[Tensor, "batch pos d_model"], mixed: Float[Tensor, "batch pos channel"]
    ) -> tuple[Float[Tensor, "batch pos head d_value"], Selected]:
        """Values, and what the token chooses."""
        raise NotImplementedError

    def step_size(self, dt: Float[Tensor, "batch pos head"]) -> Float[Tensor, "batch pos head"]:
        """The step size, above zero."""
        raise NotImplementedError

    def log_decay(self, dt: Float[Tensor, "batch pos head"]) -> Float[Tensor, "batch pos head *d_key"]:
        """What a step of this size leaves of the state, as a logarithm, float32."""
        raise NotImplementedError

    def gated(
        self, y: Float[Tensor, "batch pos head d_value"], gate: Float[Tensor, "batch pos head d_value"]
    ) -> Float[Tensor, "batch pos head d_value"]:
        """What is read, through its gate and whatever norm there is."""
        raise NotImplementedError

    def mix(
        self, x: Float[Tensor, "batch pos d_model"], batch: Batch, tap: Tap, memory: Memory | None
    ) -> tuple[Float[Tensor, "batch kept d_model"], Memory | None]:
        """Its own output, and what it remembers: states, and the last inputs of the convolution."""
        own: Mapping[str, Any] = self._parameters
        state_shape = (self.n_heads, self.d_key, self.d_value)
        past = recall(memory, batch, state=state_shape, shift=(self.width - 1, self.channels)) or {}
        x = tap("mixer.hook_in", x)
        inner = linear(x, own["inner_weight"], own["inner_bias"])
        mixed, shift = convolved(inner, self.conv_weight, own["conv_bias"], past.get("shift"), batch, tap)
        v, chosen = self.selected(x, silu(mixed))
        v = wide(tap("mixer.hook_v", v))
        dt = wide(tap("mixer.hook_dt", self.step_size(chosen.dt)))
        log_decay = tap("mixer.hook_log_decay", self.log_decay(dt))
        r = tap("mixer.hook_r", wide(chosen.c))
        k = tap("mixer.hook_k", wide(chosen.b) * dt[..., None])
        by_head = log_decay[..., None] if log_decay.ndim < k.ndim else log_decay
        read, state, found = self.recurred((r, by_head, k * self.gate(k, tap), v), v, past.get("state"), batch, tap)
        read = read + tap("mixer.hook_bonus", v * wide(self.skip_weight)[:, None])
        gate = silu(wide(linear(x, own["output_gate_weight"], own["output_gate_bias"]))).view(read.shape)
        z = self.gated(read, tap("mixer.hook_g", gate)).to(x.dtype)
        return self.output(z, batch, tap), self.snapshots(state, found, shift, batch, x.shape[1])

    def site_sizes(self) -> dict[str, int]:
        """The sizes of its sites' dims."""
        return {**super().site_sizes(), "lag": self.width - 1, "d_conv": self.channels}

    def weights(self) -> Mapping[str, Tensor]:
        """``W_G``: ``[head d_model d_value]``; ``W_O``: ``[head d_value d_model]``, ``b_O``."""
        own: Mapping[str, Any] = self._parameters
        found = {
            "mixer.W_G": own["output_gate_weight"].view(self.n_heads, self.d_value, self.d_model).transpose(1, 2),
            "mixer.W_O": self.output_weight.view(self.d_model, self.n_heads, self.d_value).permute(1, 2, 0),
        }
        return found if own["output_bias"] is None else {**found, "mixer.b_O": own["output_bias"]}
