"""Channel-mix: an MLP of squared rectified units that also reads the position before.

Source: Peng et al. 2023, arXiv:2305.13048, equations 23 to 25 (with a gate); 2025, arXiv:2503.14456 (without).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear, relu

from mi_core.blueprint import empty
from mi_core.protocols import Batch, Memory, Site, Tap
from mi_core.vocabulary import site
from mi_recurrent.memory import Snapshots, behind, cuts, recall
from mi_recurrent.sites import recurrent_site
from mi_recurrent.time_mix import one_before

__all__ = ["ChannelMix", "ChannelMixModule"]


@dataclass(frozen=True)
class ChannelMix:
    """``W_value relu(W_key x)^2``, times ``sigmoid(W_receptance x)`` if ``gated``."""

    d_mlp: int
    gated: bool
    weighs: str = "current"
    """What the learned mix is the share of: the ``"current"`` token (versions 4, 5) or the ``"previous"`` (6, 7)."""
    shape: tuple[int, ...] = (1, 1)
    """The leading dims of the mix in checkpoints."""

    def build(self, d_model: int) -> ChannelMixModule:
        """The module."""
        return ChannelMixModule(self, d_model)


class ChannelMixModule(nn.Module):
    """See `ChannelMix`."""

    multiplies = ("key", "receptance", "value")
    keeps_norms = "mixes each token with the one before, and the first with zeros, which have no norm's bias"

    def __init__(self, spec: ChannelMix, d_model: int) -> None:
        super().__init__()
        self.spec = spec
        self.d_model = d_model
        self.mix_k = empty(*spec.shape, d_model)
        self.register_parameter("mix_r", empty(*spec.shape, d_model) if spec.gated else None)
        self.key_weight = empty(spec.d_mlp, d_model)
        self.register_parameter("receptance_weight", empty(d_model, d_model) if spec.gated else None)
        self.value_weight = empty(d_model, spec.d_mlp)

    def transform(
        self, x: Float[Tensor, "batch pos d_model"], batch: Batch, tap: Tap, memory: Memory | None
    ) -> tuple[Float[Tensor, "batch kept d_model"], Memory | None]:
        """What it adds to the stream, and what it remembers.

        The gate is a multiplier behind ``mlp.hook_out``, so that neurons times W_out are that, in every version.
        """
        own: Mapping[str, Any] = self._parameters
        past = recall(memory, batch, shift=(self.d_model,))
        x = tap("mlp.hook_in", x)
        left = tap("mixer.hook_channel_shift", x)
        start = None if past is None else past["shift"]
        if batch.keep is None:
            before = one_before(left, start)
        else:
            before, x = torch.chunk(left, 2, 1)
            start = torch.zeros_like(x[:, 0]) if start is None else start.to(x.dtype)
            before = torch.where((batch.keep == 0)[..., None], start[:, None], before)

        def mixed(share: Tensor) -> Tensor:
            return before + (x - before) * share if self.spec.weighs == "current" else x + (before - x) * share

        pre = tap("mlp.hook_pre", linear(mixed(own["mix_k"]), own["key_weight"]))
        post = tap("mlp.hook_post", relu(pre).square())
        out = tap("mlp.hook_out", linear(post, own["value_weight"]))
        if self.spec.gated:
            out = tap("mlp.hook_r", torch.sigmoid(linear(mixed(own["mix_r"]), own["receptance_weight"]))) * out
        if batch.record is None:
            return out, None
        length, index = cuts(batch, x.shape[1])
        first = torch.zeros_like(left[:, 0]) if past is None else past["shift"]
        return out, Snapshots({"shift": behind(first, left, index)}, length)

    def sites(self) -> Sequence[Site]:
        """From the input to the output, in firing order."""
        return (
            site("mlp.hook_in", d_model=self.d_model),
            recurrent_site("mixer.hook_channel_shift", "heads", {"d_model": self.d_model}),
            site("mlp.hook_pre", d_mlp=self.spec.d_mlp),
            site("mlp.hook_post", d_mlp=self.spec.d_mlp),
            site("mlp.hook_out", d_model=self.d_model),
            *((recurrent_site("mlp.hook_r", "heads", {"d_model": self.d_model}),) if self.spec.gated else ()),
        )

    def weights(self) -> Mapping[str, Tensor]:
        """``W_K`` ``[d_model d_mlp]`` (behind the token shift), ``W_out`` ``[d_mlp d_model]``, ``W_R`` of the gate."""
        found = {"mlp.W_K": self.key_weight.T, "mlp.W_out": self.value_weight.T}
        gate = self._parameters["receptance_weight"]
        return found if gate is None else {**found, "mlp.W_R": gate.T}
