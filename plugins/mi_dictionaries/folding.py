"""The same function with other weights: decoder rows of norm one, a scale of activations inside the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from mi_core.errors import BadConfig
from mi_dictionaries.activations import Activation, Alone, Gated, JumpReLU, ReLU
from mi_dictionaries.matching_pursuit import MatchingPursuit
from mi_dictionaries.rows import Rows, Stacked, whole
from mi_dictionaries.sparse import SparseDictionary

__all__ = ["fold_decoder_norms", "fold_scale"]

SMALLEST = 1e-8
"""Norms below it count as it: SAELens 6.54, ``fold_W_dec_norm``."""


def fold_decoder_norms(dictionary: SparseDictionary) -> SparseDictionary:
    """The same dictionary with decoder rows of norm one: features say how much they write.

    Features are multiplied by the old norms, reconstructions stay. Of a gated encoder the scale ``r_mag`` stays, since
    what it multiplies is scaled already.

    Raises:
        BadConfig: features compete with each other, and other ones would win; or the activation is not proportional.

    Source: SAELens 6.54, ``fold_W_dec_norm`` (5.9 scaled ``r_mag`` too, which changes the function).
    """
    norms = dictionary.decoder_norms().clamp(min=SMALLEST)
    rows = scaled_rows(dictionary.W_dec, lambda part: part / column(norms, part))
    folded = replace(dictionary, W_enc=dictionary.W_enc * norms, b_enc=times(dictionary.b_enc, norms), W_dec=rows)
    if isinstance(dictionary.activation, Alone):
        return replace(folded, activation=scaled_activation(dictionary.activation, norms))
    if competes_by_norms(dictionary, norms):
        # they competed by what they add already, and now their values say it
        return replace(folded, pre_scale=None, feature_scale=None)
    raise BadConfig(
        f"the features at {dictionary.site_in!r} compete ({type(dictionary.activation).__name__}), so scaling them by "
        "the norms of their decoder rows would let others win. It is exact only where pre-activations are multiplied "
        "by those norms (with_decoder_norms).",
        activation=dictionary.activation,
    )


def fold_scale(
    dictionary: SparseDictionary | MatchingPursuit, scale: float, scale_out: float | None = None
) -> SparseDictionary | MatchingPursuit:
    """A dictionary of scaled activations as one of activations as they are: ``folded(x) = d(scale x) / scale``.

    Features keep their values (those of matching pursuit are divided by the scale). What a transcoder writes may have
    been scaled by another number, ``scale_out``.

    Raises:
        BadConfig: a norm or an adapter stands between the activations and the scale.

    Source: SAELens 6.54, ``fold_activation_norm_scaling_factor``.
    """
    out = scale if scale_out is None else scale_out
    if dictionary.transforms:
        raise BadConfig(
            f"the dictionary at {dictionary.site_in!r} has {dictionary.transforms!r} before its encoder: a scale of "
            "the activations does not reach its weights.",
            transforms=dictionary.transforms,
        )
    b_in, b_dec = times(dictionary.b_in, 1 / scale), times(dictionary.b_dec, 1 / out)
    if isinstance(dictionary, MatchingPursuit):
        if out != scale:
            raise BadConfig("matching pursuit reads and writes with the same rows: it has one scale.", scale_out=out)
        return replace(dictionary, residual_threshold=dictionary.residual_threshold / scale, b_in=b_in, b_dec=b_dec)
    rows = scaled_rows(dictionary.W_dec, lambda part: part / out)
    skip = times(dictionary.W_skip, scale / out)
    W_enc = dictionary.W_enc * scale
    return replace(dictionary, W_enc=W_enc, W_dec=rows, W_skip=skip, b_in=b_in, b_dec=b_dec)


def scaled_activation(activation: Alone, by: Tensor) -> Activation:
    """The activation of pre-activations times ``by`` that gives the old features times ``by``."""
    if type(activation) is ReLU:
        return activation
    if isinstance(activation, JumpReLU):
        return replace(activation, threshold=activation.threshold * by)
    if isinstance(activation, Gated):
        return replace(activation, b_gate=activation.b_gate * by, b_mag=activation.b_mag * by)
    raise BadConfig(
        f"{type(activation).__name__} is not proportional to its pre-activations: norms cannot be folded through it.",
        activation=activation,
    )


def competes_by_norms(dictionary: SparseDictionary, norms: Tensor) -> bool:
    """Whether features are judged by what they add, and handed on without that factor."""
    pre, out = dictionary.pre_scale, dictionary.feature_scale
    if pre is None or out is None:
        return False
    return bool(torch.allclose(pre, norms.to(pre), rtol=1e-4) and torch.allclose(pre * out, torch.ones_like(pre)))


def scaled_rows(weight: Rows, scaled: Callable[[Tensor], Tensor]) -> Rows:
    """A decoder with its rows scaled, each part of it where they are apart."""
    return Stacked(tuple(map(scaled, weight.parts))) if isinstance(weight, Stacked) else scaled(whole(weight))


def column(norms: Tensor, weight: Tensor) -> Tensor:
    """One number for each row."""
    return norms.reshape(-1, *(1 for _ in weight.shape[1:]))


def times(held: Tensor | None, by: Tensor | float) -> Tensor | None:
    """What may be absent, multiplied."""
    return None if held is None else held * by
