"""Norms of queries, keys and mixed values: over each head, or over all heads together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from mi_decoder.norms import LayerNorm, RMSNorm, RMSNormModule

__all__ = ["HeadNorm", "head_normed"]


@dataclass(frozen=True)
class HeadNorm:
    """A norm over each head with one gain for all (``"shared"``) or one for each (``"own"``), or over all heads.

    Source: Henry et al. 2020, arXiv:2010.04245; transformers 5.24, Qwen3Attention (shared), CohereAttention (own),
    Olmo2Attention (``"together"``: before the projection is split into heads).
    """

    norm: RMSNorm | LayerNorm
    over: Literal["shared", "own", "together"] = "shared"
    late: bool = False
    """Whether queries and keys are turned first. Source: transformers 5.24, NanoChatAttention."""

    def build(self, n_heads: int, d_head: int, name: str) -> RMSNormModule:
        """The module; its gain is ``[d_head]``, ``[head d_head]`` or all heads in one row."""
        if self.over == "together":
            return self.norm.build(n_heads * d_head, name)
        return self.norm.build(d_head, name, n_heads if self.over == "own" else None)


def head_normed(norm: Any, x: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos head d_head"]:
    """Queries, keys or mixed values after their norm."""
    found: Tensor = norm.plain(x) if norm.dims[0] == x.shape[-1] else norm.plain(x.flatten(2)).view_as(x)
    return found
