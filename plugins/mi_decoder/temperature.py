"""Query temperature: queries grow with their position, so that far ones do not spread their attention too thin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.protocols import Batch

__all__ = ["Temperature"]


@dataclass(frozen=True)
class Temperature:
    """Multiplies queries by ``1 + strength * log(1 + floor(position / period))``.

    Source: Nakanishi 2025, arXiv:2501.19399; transformers 5.24, Ministral3Attention (``"positions"``) and
    Llama4TextAttention (``"columns"``: real tokens are counted from one, whatever ``position_ids`` say).
    """

    strength: float
    period: float
    counted: Literal["positions", "columns"] = "positions"

    def apply(
        self, q: Float[Tensor, "batch query_pos head d_head"], batch: Batch
    ) -> Float[Tensor, "batch query_pos head d_head"]:
        """The queries, each with its own factor, which is made in float32 and rounded."""
        factor = batch.kept(batch.once((self, q.dtype), lambda: self.factors(batch, q.dtype)))
        return q * factor[:, :, None, None]

    def factors(self, batch: Batch, dtype: torch.dtype) -> Float[Tensor, "batch pos"]:
        """What each position's queries are multiplied by."""
        if batch.parts:
            return torch.cat([self.factors(part.batch, dtype).flatten() for part in batch.parts])[None]
        place = batch.positions
        if self.counted == "columns":
            place = batch.start[:, None] + torch.arange(place.shape[1], device=place.device) + 1
        return (1 + self.strength * torch.log1p(torch.floor(place.float() / self.period))).to(dtype)
