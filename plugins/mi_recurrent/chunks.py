"""Sequences in chunks, and what decays between the positions of a chunk.

Sizes in shapes: ``chunk`` chunks of ``token`` positions; ``n`` are channels of a head; ``reader`` and ``writer`` are
tokens, once for each kind of vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["Compared", "boundaries_of", "compare", "cumulative", "in_chunks", "one_after_the_other"]

BLOCK = 4
"""Tokens that are compared pair by pair where decays are strong."""
GENTLE = 20.0
"""Decay over half a chunk, as a logarithm, up to which float32 holds the sums well enough."""
SAFE = 80.0
"""Exponents up to which e^x and e^-x are ordinary float32 numbers, with room for what they multiply."""


def in_chunks(
    x: Float[Tensor, "batch head pos n"], size: int, fill: float = 0.0
) -> Float[Tensor, "batch head chunk token n"]:
    """The positions in chunks of ``size``, the last filled up."""
    batch, head, pos, n = x.shape
    filled = pad(x, (0, 0, 0, -pos % size), value=fill) if pos % size else x
    # contiguous: heads come as a transposed view, on which everything that follows is slower
    return filled.reshape(batch, head, -1, size, n).contiguous()


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


@dataclass(frozen=True, eq=False)
class Compared:
    """The vectors of each chunk, faded by what lies between them."""

    products: Float[Tensor, "batch head chunk reader writer"]
    """``sum_n x_n y_n e^(decay between)`` where the reader comes later, zero elsewhere."""
    readers: Float[Tensor, "batch head chunk reader n"]
    """As they read the state at the chunk's start."""
    writers: Float[Tensor, "batch head chunk writer n"]
    """As what they write is left at the chunk's end."""
    kept: Float[Tensor, "batch head chunk _ 1"]
    """What is left at the chunk's end of the state at its start, of each channel or of all."""


def boundaries_of(
    chunks: Compared, v: Float[Tensor, "batch head chunk token d_value"], state: Float[Tensor, "batch head _ d_value"]
) -> Float[Tensor, "batch head boundary _ d_value"]:
    """The states before each chunk and behind the last, where nothing is removed."""
    added = chunks.writers.mT @ v
    states = [state]
    for place in range(v.shape[2]):
        states.append(chunks.kept[:, :, place] * states[-1] + added[:, :, place])
    return torch.stack(states, 2)


def compare(
    early: Sequence[Float[Tensor, "batch head chunk token n"]],
    late: Sequence[Float[Tensor, "batch head chunk token n"]],
    writers: Sequence[Float[Tensor, "batch head chunk token n"]],
    log_decay: Float[Tensor, "batch head chunk token _"],
) -> Compared:
    """What readers see of what was written in their chunk.

    An ``early`` reader sees the state before its token's decay and write, a ``late`` one the state behind them. One
    matrix product with exponents around the middle of the chunk; where half a chunk decays so much that those leave
    float32, in blocks. A decay of the whole head (``n`` of it is 1) needs neither.

    Source: Yang et al. 2024, arXiv:2312.06635, section 4 (secondary chunking).
    """
    if log_decay.shape[-1] == 1:
        return by_head(early, late, writers, log_decay)
    half = log_decay.shape[-2] // 2
    first, second = (part.abs().sum(-2) for part in torch.chunk(log_decay.detach(), 2, -2))
    halves = torch.maximum(first, second)
    strongest = float(halves.amax()) if halves.numel() else 0.0
    after = log_decay.cumsum(-2) if strongest < GENTLE else cumulative(log_decay)
    middle, end = after[..., half - 1 : half, :], after[..., -1:, :]
    kept = end.to(log_decay).exp().mT
    if not strongest < SAFE:  # NaN neither
        return in_blocks(early, late, writers, log_decay, kept)
    away = after - middle
    before, behind = (away - log_decay).to(log_decay).exp(), away.to(log_decay).exp()
    until = (-away).to(log_decay).exp()
    rows = torch.cat([*(x * before for x in early), *(x * behind for x in late)], -2)
    columns = torch.cat([y * until for y in writers], -2)
    own = torch.ones(2 * half, 2 * half, dtype=torch.bool, device=log_decay.device)
    seen = torch.cat([*(own.tril(-1) for _ in early), *(own.tril() for _ in late)]).repeat(1, len(writers))
    products = torch.where(seen, rows @ columns.mT, 0.0)
    return Compared(products, rows * middle.to(rows).exp(), columns * (end - middle).to(columns).exp(), kept)


def by_head(early: Sequence[Tensor], late: Sequence[Tensor], writers: Sequence[Tensor], log_decay: Tensor) -> Compared:
    """The same for a decay of the whole head, which leaves the product of two vectors: no exponent is above zero.

    Source: Dao and Gu 2024, arXiv:2405.21060, section 6.
    """
    after = cumulative(log_decay)
    before, end = after - log_decay, after[..., -1:, :]
    own = torch.ones(log_decay.shape[-2], log_decay.shape[-2], dtype=torch.bool, device=log_decay.device)

    def between(at: Tensor, last: int) -> Tensor:
        return (at - after.mT).masked_fill(~own.tril(last), -torch.inf).to(log_decay).exp()

    fading = torch.cat([*(between(before, -1) for _ in early), *(between(after, 0) for _ in late)], -2)
    products = torch.cat((*early, *late), -2) @ torch.cat(tuple(writers), -2).mT
    return Compared(
        products * torch.cat([fading] * len(writers), -1),
        torch.cat([x * at.to(x).exp() for x, at in [(x, before) for x in early] + [(x, after) for x in late]], -2),
        torch.cat([y * (end - after).to(y).exp() for y in writers], -2),
        end.to(log_decay).exp(),
    )


def in_blocks(
    early: Sequence[Tensor], late: Sequence[Tensor], writers: Sequence[Tensor], log_decay: Tensor, kept: Tensor
) -> Compared:
    """The same for any decay: no exponent is above zero."""
    after = cumulative(log_decay)
    before, end = after - log_decay, after[..., -1:, :]
    readers = [(x, before, -1) for x in early] + [(x, after, 0) for x in late]
    products = [torch.cat([blocks(x, y, at, after, last) for y in writers], -1) for x, at, last in readers]
    return Compared(
        torch.cat(products, -2),
        torch.cat([x * at.to(x).exp() for x, at, _ in readers], -2),
        torch.cat([y * (end - after).to(y).exp() for y in writers], -2),
        kept,
    )


def blocks(x: Tensor, y: Tensor, at_x: Tensor, at_y: Tensor, last: int) -> Tensor:
    """Matrix products against earlier blocks, pairs within a block only; ``last`` 0: a token sees itself too.

    Seen from the end of the blocks before, both exponents are at most 0.
    """
    rows = []
    tokens = x.shape[-2]
    for begin in range(0, tokens, BLOCK):
        own = slice(begin, begin + BLOCK)
        here = pairwise(x[..., own, :], y[..., own, :], at_x[..., own, :], at_y[..., own, :], last)
        parts = [here, here.new_zeros(*here.shape[:-1], tokens - begin - here.shape[-1])]
        if begin:
            end = at_y[..., begin - 1 : begin, :]
            since, until = (at_x[..., own, :] - end).to(x).exp(), (end - at_y[..., :begin, :]).to(y).exp()
            parts.insert(0, (x[..., own, :] * since) @ (y[..., :begin, :] * until).mT)
        rows.append(torch.cat(parts, -1))
    return torch.cat(rows, -2)


def pairwise(x: Tensor, y: Tensor, at_x: Tensor, at_y: Tensor, last: int) -> Tensor:
    """The same pair by pair: no exponent of a visible pair is large."""
    seen = torch.ones(x.shape[-2], y.shape[-2], dtype=torch.bool, device=x.device).tril(last)
    between = (at_x[..., :, None, :] - at_y[..., None, :, :]).masked_fill(~seen[..., None], -torch.inf)
    return (x[..., :, None, :] * y[..., None, :, :] * between.to(x).exp()).sum(-1)
