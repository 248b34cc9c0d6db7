"""From features to rows of activations: only the decoder's rows of active features are read."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from mi_dictionaries.features import Features
from mi_dictionaries.rows import Rows, rows_of, whole

__all__ = ["decoded"]

FEW = 0.1
"""Of fewer features than this the rows are fetched; of more all are multiplied."""


def decoded(features: Features, weight: Rows, scale: Float[Tensor, "feature"] | None) -> Float[Tensor, "tokens d"]:
    """``f W_dec``, without biases: one row for each token, of all writes side by side.

    Where features ask for gradients, those of features that are not active count too, so all rows are needed.
    """
    width = math.prod(weight.shape[1:])
    values = features.values
    dtype = torch.promote_types(values.dtype, weight.dtype)
    if not features.is_sparse and (values.requires_grad or not few(values)):
        flat = values.reshape(features.n_tokens, features.d_sae).to(dtype)
        flat = flat if scale is None else flat * scale.to(dtype)
        return flat @ whole(weight).reshape(features.d_sae, width).to(flat)
    token, index, values = features.rows()
    values = values.to(dtype)
    if scale is not None:
        values = values * scale[index].to(dtype)
    used, place = torch.unique(index, return_inverse=True)
    table = rows_of(weight, used).to(dtype).reshape(-1, width)
    if not len(used):
        return table.new_zeros(features.n_tokens, width)
    counts = torch.bincount(token, minlength=features.n_tokens)
    return F.embedding_bag(place, table, counts.cumsum(0) - counts, mode="sum", per_sample_weights=values)


def few(values: Float[Tensor, "*tokens feature"]) -> bool:
    """Whether so few features are active that their rows alone are less work than all."""
    return int(torch.count_nonzero(values)) < FEW * values.numel()
