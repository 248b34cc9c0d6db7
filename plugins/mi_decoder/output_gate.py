"""Output gates: what mixed values are multiplied by before W_O, as a function of what attention reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["OutputGate"]


@dataclass(frozen=True)
class OutputGate:
    """``activation(W_gate x)``: a factor for each number of the mixed values, or one for each head.

    Source: Qiu et al. 2025, arXiv:2505.06708; transformers 5.24, AfmoeAttention (a sigmoid for each number) and
    LagunaAttention (softplus in float32, for each head).
    """

    activation: Callable[[Tensor], Tensor] = torch.sigmoid
    by_head: bool = False
    wide: bool = False
    """Whether the activation is computed in float32 and rounded."""
    bias: bool = False
    """Whether ``W_gate x`` has a bias."""

    def width(self, d_value: int) -> int:
        """How many factors a head has."""
        return 1 if self.by_head else d_value

    def opened(self, pre: Float[Tensor, "batch pos factors"], n_heads: int) -> Float[Tensor, "batch pos head _"]:
        """The factors of each head, from the product with W_gate."""
        wide = torch.promote_types(pre.dtype, torch.float32) if self.wide else pre.dtype
        return self.activation(pre.to(wide)).to(pre.dtype).view(*pre.shape[:-1], n_heads, -1)
