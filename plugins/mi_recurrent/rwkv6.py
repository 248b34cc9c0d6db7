"""RWKV-6's time-mix: as in RWKV-5, with mixes and decays that depend on the token.

Source: Peng et al. 2024, arXiv:2404.05892 (Finch); the reference code that RWKV/v6-Finch models come with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.blueprint import empty
from mi_recurrent.rwkv5 import RWKV5TimeMixModule
from mi_recurrent.time_mix import TimeMix, wide

__all__ = ["RWKV6TimeMix", "RWKV6TimeMixModule"]

MIXES = (("w", "decay"), ("k", "key"), ("v", "value"), ("r", "receptance"), ("g", "gate"))
"""In the order in which the low-rank map stacks them."""


@dataclass(frozen=True)
class RWKV6TimeMix:
    """The ranks are of the low-rank maps behind the token shift's mixes and the decay."""

    n_heads: int
    mix_rank: int
    decay_rank: int
    eps: float = 64e-5

    def build(self, d_model: int) -> RWKV6TimeMixModule:
        """The module."""
        return RWKV6TimeMixModule(self, d_model)


class RWKV6TimeMixModule(RWKV5TimeMixModule):
    """See `RWKV6TimeMix`."""

    def __init__(self, spec: RWKV6TimeMix, d_model: int) -> None:
        TimeMix.__init__(self, d_model, spec.n_heads)
        self.eps = spec.eps
        for name in ("x", *(letter for letter, _ in MIXES)):
            self.register_parameter(f"time_maa_{name}", empty(1, 1, d_model))
        # these lie [in, out], unlike the matrices
        self.time_maa_w1 = empty(d_model, len(MIXES) * spec.mix_rank)
        self.time_maa_w2 = empty(len(MIXES), spec.mix_rank, d_model)
        self.time_decay = empty(1, 1, d_model)
        self.time_decay_w1, self.time_decay_w2 = empty(d_model, spec.decay_rank), empty(spec.decay_rank, d_model)
        self.add_common()

    def mixed(
        self, x: Float[Tensor, "batch pos d_model"], before: Float[Tensor, "batch pos d_model"]
    ) -> tuple[Mapping[str, Float[Tensor, "batch pos d_model"]], Float[Tensor, "batch pos head d_head"]]:
        """What each matrix reads, and the log decay. A mix is the share of the token before."""
        own: Mapping[str, Any] = self._parameters
        away = before - x
        inner = torch.tanh((x + away * own["time_maa_x"]) @ own["time_maa_w1"])
        inner = inner.view(*x.shape[:2], len(MIXES), -1)
        moved = torch.einsum("bpmr,mrd->mbpd", inner, own["time_maa_w2"])
        inputs = {name: x + away * (own[f"time_maa_{letter}"] + moved[i]) for i, (letter, name) in enumerate(MIXES)}
        speed = own["time_decay"] + torch.tanh(inputs["decay"] @ own["time_decay_w1"]) @ own["time_decay_w2"]
        return inputs, self.heads(-wide(speed).exp())
