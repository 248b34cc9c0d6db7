"""How certain a mean over prompts is: the percentile bootstrap.

Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["mean_interval"]

RESAMPLES = 2000
CELLS = 2**22
"""Resampled means that exist at once."""


def mean_interval(
    values: Float[Tensor, "*cells batch"], level: float = 0.95, seed: int = 0
) -> Float[Tensor, "2 *cells"]:
    """Between which two numbers does the mean over prompts lie? NaN where there is one prompt only.

    The prompts are drawn with replacement, the same draws for every cell, so that cells can be compared.

    >>> mean_interval(torch.tensor([0.0, 1.0, 0.0, 1.0])).tolist()
    [0.0, 1.0]
    """
    rows = values.shape[-1]
    if rows < 2:
        return values.new_full((2, *values.shape[:-1]), torch.nan)
    drawn = torch.randint(rows, (RESAMPLES, rows), generator=torch.Generator().manual_seed(seed))
    weights = torch.zeros(RESAMPLES, rows).scatter_add_(1, drawn, torch.ones(RESAMPLES, rows)) / rows
    levels = torch.tensor([(1 - level) / 2, (1 + level) / 2])
    flat = values.float().reshape(-1, rows)
    step = CELLS // RESAMPLES
    pieces = [torch.quantile(weights @ flat[at : at + step].T, levels, dim=0) for at in range(0, len(flat), step)]
    return torch.cat(pieces, dim=1).reshape(2, *values.shape[:-1])
