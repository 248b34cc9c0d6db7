"""From rows of activations to features, a part of the tokens and of the features at a time."""

from __future__ import annotations

from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_dictionaries.activations import ALL, Activation

__all__ = ["active", "dense_features", "pre_activations"]

Weight: TypeAlias = Float[Tensor, "d feature"]
PerFeature: TypeAlias = Tensor | None


def active(
    h: Float[Tensor, "tokens d"], W: Weight, b: PerFeature, scale: PerFeature, activation: Activation
) -> tuple[Int[Tensor, "active"], Int[Tensor, "active"], Float[Tensor, "active"]]:
    """Token, feature and value of what is active, in the order of tokens, then features."""
    dense = dense_features(h, W, b, scale, activation)
    token, index = dense.detach().nonzero(as_tuple=True)
    return token, index, dense[token, index]


def dense_features(
    h: Float[Tensor, "tokens d"], W: Weight, b: PerFeature, scale: PerFeature, activation: Activation
) -> Float[Tensor, "tokens feature"]:
    """Every feature of every token."""
    return activation(pre_activations(h, W, b, scale))


def pre_activations(
    h: Float[Tensor, "tokens d"], W: Weight, b: PerFeature, scale: PerFeature, part: slice = ALL
) -> Float[Tensor, "tokens part"]:
    """``(h W + b) scale`` of some features, in the finer type of activations and weights."""
    dtype = torch.promote_types(h.dtype, W.dtype)
    h, weight = h.to(dtype), W[:, part].to(dtype)
    z = h @ weight if b is None else torch.addmm(b[part].to(dtype), h, weight)
    return z if scale is None else z * scale[part].to(dtype)
