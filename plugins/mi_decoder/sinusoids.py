"""Computed positions: sines and cosines of the position, added to the token's embedding."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from mi_core.protocols import Batch

__all__ = ["Sinusoids"]


@dataclass(frozen=True)
class Sinusoids:
    """All sines, then all cosines, of positions that count from ``offset``; computed in float32, then rounded.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5, in the order of tensor2tensor; transformers 5.24,
    XGLMSinusoidalPositionalEmbedding.
    """

    offset: int = 0

    @property
    def rows(self) -> int:
        """Rows of a learned table: none."""
        return 0

    def embedding(
        self, table: Tensor | None, batch: Batch, like: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """What is added at the batch's positions to embeddings such as ``like``."""
        half = like.shape[-1] // 2
        steps = torch.arange(half, dtype=torch.int64, device=like.device).float()
        frequencies = torch.exp(steps * -(math.log(10000) / (half - 1)))
        angles = (batch.positions + self.offset)[..., None].float() * frequencies
        return pad(torch.cat((angles.sin(), angles.cos()), -1), (0, like.shape[-1] % 2)).to(like.dtype)
