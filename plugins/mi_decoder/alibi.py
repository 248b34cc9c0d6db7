"""Linear biases: what scores lose for each position between a query and a key; heads differ in their slope."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.protocols import Batch

__all__ = ["Alibi", "geometric_slopes"]


@dataclass(frozen=True)
class Alibi:
    """Adds ``slope * (key - origin)`` to each head's scores, behind their scale and before the mask.

    Patterns do not depend on the origin, scores do, and so does what rounding leaves: ``"start"`` counts keys from
    their row's first token, ``"query"`` from the query. Real tokens are counted: `ModelShape.no_positions`.

    Source: Press et al. 2022, arXiv:2108.12409; transformers 5.24, BloomModel (start), MptModel (behind the last key).
    """

    slopes: tuple[float, ...]
    """One for each query head."""
    origin: Literal["start", "query"] = "start"
    scale: float = 1.0
    """What biases are multiplied by, in the model's dtype."""
    rounded: bool = False
    """Whether slopes and their products are rounded to bfloat16, in every dtype. Source: transformers 5.24, Falcon."""

    def bias(self, batch: Batch, n_keys: int, dtype: torch.dtype) -> Float[Tensor, "_ head _ key_pos"]:
        """The biases of ``n_keys`` keys, whose first is the row's first token; one row where rows do not differ."""
        keys = torch.arange(n_keys, device=batch.start.device)[None, None, None]
        if self.origin == "query":
            columns = torch.arange(batch.positions.shape[1], device=keys.device) if batch.keep is None else batch.keep
            keys = keys - (batch.start[:, None] + columns)[:, None, :, None]
        slopes = torch.tensor(self.slopes, device=keys.device)[:, None, None]
        bias = ((slopes.bfloat16() if self.rounded else slopes) * keys).to(dtype)
        return bias if self.scale == 1.0 else bias * self.scale


def geometric_slopes(n_heads: int) -> tuple[float, ...]:
    """The paper's slopes: ``2 ** (-8 i / n)`` for a power of two, with every second slope of twice as many behind.

    Source: Press et al. 2022, arXiv:2108.12409, section 3 and its code; transformers 5.24, BloomModel.

    >>> geometric_slopes(8)[:3]
    (0.5, 0.25, 0.125)
    """
    power = 2 ** math.floor(math.log2(n_heads))
    exponents = [index / power for index in range(1, power + 1)]
    exponents += [index / (2 * power) for index in range(1, 2 * (n_heads - power), 2)]
    return tuple(2.0 ** (-8.0 * exponent) for exponent in exponents)
