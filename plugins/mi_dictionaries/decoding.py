"""From features to rows of activations: only the decoder's rows of active features are read."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from mi_dictionaries.features import Features
from mi_dictionaries.rows import Rows, rows_of

__all__ = ["decoded"]


def decoded(features: Features, weight: Rows, scale: Float[Tensor, "feature"] | None) -> Float[Tensor, "tokens d"]:
    """``f W_dec``, without biases: one row for each token, of all writes side by side."""
    width = math.prod(weight.shape[1:])
    values = features.values
    dtype = torch.promote_types(values.dtype, weight.dtype)
    if not features.is_sparse and isinstance(weight, Tensor):
        flat = values.reshape(features.n_tokens, features.d_sae).to(dtype)
        flat = flat if scale is None else flat * scale.to(dtype)
        return flat @ weight.reshape(features.d_sae, width).to(dtype)
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
