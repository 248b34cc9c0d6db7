"""Position embeddings that are added to the token's: one for each position, learned or computed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.protocols import Batch

__all__ = ["LearnedPositions"]


@dataclass(frozen=True)
class LearnedPositions:
    """A table of ``n_ctx`` positions, the first of which lies at row ``offset``.

    Source: Radford et al. 2019 (GPT-2); transformers 5.24, OPTLearnedPositionalEmbedding (the offset).
    """

    n_ctx: int
    offset: int = 0

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return self.n_ctx + self.offset

    def embedding(
        self, table: Float[Tensor, "row d_model"] | None, batch: Batch, like: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """The rows of the batch's positions."""
        assert table is not None
        columns = torch.arange(batch.positions.shape[1], device=batch.positions.device)
        # padding may lie behind the table's end
        positions = torch.where(columns < batch.length[:, None], batch.positions, 0)
        return torch.embedding(table, positions + self.offset)
