"""Gram matrices: sums of products of features, of which one half is the other's mirror image and costs nothing."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

__all__ = ["gram_of"]

COLUMNS = 96
"""Columns that are computed at a time: few, so that little of the mirrored half is, and enough for a fast product."""


def gram_of(
    x: Float[Tensor, "cell example d"], weights: Float[Tensor, "example"] | None = None
) -> Float[Tensor, "cell d d"]:
    """Sums over examples, weighted or not, of products of their features.

    >>> import torch
    >>> gram_of(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])).tolist()
    [[[10.0, 14.0], [14.0, 20.0]]]
    """
    d = x.shape[-1]
    found = x.new_zeros(len(x), d, d)
    for first in range(0, d, COLUMNS):
        some = x[..., first : first + COLUMNS]
        some = some if weights is None else weights[:, None] * some
        found[:, first:, first : first + COLUMNS] = x[..., first:].transpose(1, 2) @ some
    lower = found.tril()
    return lower + lower.tril(-1).transpose(1, 2)
