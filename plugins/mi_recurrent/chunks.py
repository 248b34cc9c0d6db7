"""Sequences in chunks, and products of vectors that decay between their positions.

Sizes in shapes: ``chunk`` chunks of ``token`` positions; ``n`` are channels of a head.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["cumulative", "decayed_products", "in_chunks", "one_after_the_other"]

BLOCK = 4
"""Tokens that are compared pair by pair where decays are strong."""
SAFE = 80.0
"""Exponents up to which e^x and e^-x are ordinary float32 numbers, with room for what they multiply."""


def in_chunks(
    x: Float[Tensor, "batch head pos n"], size: int, fill: float = 0.0
) -> Float[Tensor, "batch head chunk token n"]:
    """The positions in chunks of ``size``, the last filled up."""
    batch, head, pos, n = x.shape
    filled = pad(x, (0, 0, 0, -pos % size), value=fill)
    return filled.reshape(batch, head, -1, size, n)


def one_after_the_other(x: Float[Tensor, "batch head chunk token n"], pos: int) -> Float[Tensor, "batch head pos n"]:
    """The way back: the first ``pos`` positions."""
    return x.flatten(2, 3)[:, :, :pos]


def cumulative(log_decay: Float[Tensor, "batch head chunk token n"]) -> Float[Tensor, "batch head chunk token n"]:
    """How much a state has decayed since the chunk's start, behind each position, as a logarithm, in float64.

    Differences of these sums are what counts: in float32 a strong decay would take the digits of the weak ones.
    """
    if log_decay.device.type == "mps":
        return log_decay.cumsum(-2)  # has no float64
    return log_decay.double().cumsum(-2)


def decayed_products(
    x: Float[Tensor, "batch head chunk token n"],
    y: Float[Tensor, "batch head chunk token_2 n"],
    at_x: Float[Tensor, "batch head chunk token n"],
    at_y: Float[Tensor, "batch head chunk token_2 n"],
    visible: Bool[Tensor, "token token_2"],
    *,
    of_itself: bool = False,
) -> Float[Tensor, "batch head chunk token token_2"]:
    """``sum_n x_tn y_jn e^(at_x_tn - at_y_jn)`` where j is visible from t, zero elsewhere.

    One matrix product, with exponents around the middle of the chunk; where a chunk decays so much that those leave
    float32, pair by pair, or in blocks where rows and columns are the same tokens (``of_itself``).

    Source: Yang et al. 2024, arXiv:2312.06635, section 4 (secondary chunking).
    """
    middle = at_y[..., at_y.shape[-2] // 2, None, :]
    x_away, y_away = at_x - middle, middle - at_y
    if x.numel() and max(float(x_away.detach().abs().amax()), float(y_away.detach().abs().amax())) < SAFE:
        products = (x * x_away.to(x).exp()) @ (y * y_away.to(y).exp()).mT
        return torch.where(visible, products, 0.0)
    if of_itself:
        return in_blocks(x, y, at_x, at_y, visible)
    return pairwise(x, y, at_x, at_y, visible)


def in_blocks(x: Tensor, y: Tensor, at_x: Tensor, at_y: Tensor, visible: Bool[Tensor, "token token"]) -> Tensor:
    """The same for chunks against themselves: matrix products against earlier blocks, pairs within a block only.

    Seen from the end of the blocks before, both exponents are at most 0.
    """
    rows = []
    for begin in range(0, len(visible), BLOCK):
        own = slice(begin, begin + BLOCK)
        here = pairwise(x[..., own, :], y[..., own, :], at_x[..., own, :], at_y[..., own, :], visible[own, own])
        parts = [here, here.new_zeros(*here.shape[:-1], len(visible) - begin - BLOCK)]
        if begin:
            end = at_y[..., begin - 1 : begin, :]
            since, until = (at_x[..., own, :] - end).to(x).exp(), (end - at_y[..., :begin, :]).to(y).exp()
            parts.insert(
                0, torch.where(visible[own, :begin], (x[..., own, :] * since) @ (y[..., :begin, :] * until).mT, 0.0)
            )
        rows.append(torch.cat(parts, -1))
    return torch.cat(rows, -2)


def pairwise(x: Tensor, y: Tensor, at_x: Tensor, at_y: Tensor, visible: Tensor) -> Tensor:
    """The same pair by pair: no exponent of a visible pair is large."""
    between = (at_x[..., :, None, :] - at_y[..., None, :, :]).masked_fill(~visible[..., None], -torch.inf)
    return torch.einsum("...tn,...jn,...tjn->...tj", x, y, between.to(x).exp())
