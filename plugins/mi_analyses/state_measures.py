"""Measures of a recurrent layer's state: its size, its rank, how fast it fades, and what each token leaves in it.

The state of RWKV-5, 6 and 7 (and of gated delta nets) is a matrix that is linear in the values: each token changes it
by ``diag(e^w)``, in RWKV-7 by ``diag(e^w) - a kk kk^T``, and writes ``k v^T``. So what a token wrote can be followed
through later tokens on its own, as its key. RWKV-4's state is a mean of the values: a token has a share of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["by_channel", "effective_rank", "half_lives", "matrix_writes", "mean_writes", "norms"]

QUANTILES = (0.1, 0.5, 0.9)
PerPosition: TypeAlias = Float[Tensor, "batch pos head"]
Survival: TypeAlias = Float[Tensor, "batch head pos later"]


def norms(state: Float[Tensor, "batch pos head d_key d_value"]) -> PerPosition:
    """The Frobenius norm of each state.

    >>> norms(torch.ones(1, 1, 1, 2, 2)).item()
    2.0
    """
    norm: Tensor = torch.linalg.matrix_norm(state)
    return norm


def effective_rank(state: Float[Tensor, "batch pos head d_key d_value"]) -> PerPosition:
    """How many directions a state holds: e to the entropy of its singular values' shares. NaN of an empty state.

    >>> round(effective_rank(torch.eye(3)[None, None, None]).item(), 4)
    3.0

    Source: Roy and Vetterli 2007, "The effective rank: A measure of effective dimensionality".
    """
    values = torch.linalg.svdvals(state)
    shares = values / values.sum(-1, keepdim=True)
    rank: Tensor = torch.special.entr(shares).sum(-1).exp()
    return rank


def half_lives(log_decay: Float[Tensor, "tokens head n"]) -> Float[Tensor, "head quantile"]:
    """After how many tokens half of what a channel holds has faded, if nothing is removed: `QUANTILES` of them.

    >>> half_lives(torch.full((5, 1, 2), -math.log(2))).tolist()
    [[1.0, 1.0, 1.0]]
    """
    tokens = (-math.log(2) / log_decay.clamp(max=-1e-9)).transpose(0, 1).flatten(1)
    return torch.quantile(tokens, torch.tensor(QUANTILES, dtype=tokens.dtype), dim=1).T


def by_channel(sites: Mapping[str, Float[Tensor, "batch pos head *n"]]) -> dict[str, Tensor]:
    """The sites with a number for each channel, and a delta net's in the terms of RWKV-7: ``kk`` and ``a``.

    A delta net removes from what has already faded, and a share ``beta`` of each write is written.
    """
    key = sites["k"]
    found = {
        name: value if value.ndim == key.ndim else value[..., None].expand_as(key) for name, value in sites.items()
    }
    beta = found.pop("beta", None)
    if beta is not None:
        found |= {"kk": key, "a": beta * found["log_decay"].exp(), "write_gate": beta * found["write_gate"]}
    return found


def matrix_writes(sites: Mapping[str, Float[Tensor, "batch pos head n"]]) -> tuple[PerPosition, Survival]:
    """How large each token's write is, and which part of it is left behind each later token.

    ``sites``: ``k``, ``v``, ``log_decay``, ``write_gate`` (by channel), and ``kk`` and ``a`` of layers that remove.
    A part above one is possible where nothing fades and a removal turns the key round.
    """
    key = sites["k"] * sites["write_gate"]
    size = key.norm(dim=-1)
    left = torch.zeros_like(key)
    parts = []
    for pos in range(key.shape[1]):
        now = {name: sites[name][:, pos : pos + 1] for name in sites}
        faded = left * now["log_decay"].exp()
        if "kk" in now:
            faded = faded - (now["kk"] * left).sum(-1, keepdim=True) * now["kk"] * now["a"]
        left = faded
        left[:, pos] = key[:, pos]
        parts.append(left.norm(dim=-1) / size)
    survival = torch.stack(parts, -1)  # [batch pos head later]
    return size * sites["v"].norm(dim=-1), upper(survival.transpose(1, 2))


def mean_writes(
    state: Float[Tensor, "batch pos 1 3 d_head"], sites: Mapping[str, Float[Tensor, "batch pos 1 d_head"]]
) -> tuple[PerPosition, Survival]:
    """The share of the mean that each token has when it is written, and which part of that is left later (RWKV-4).

    Means over channels. A share fades because the token decays, and because others come in.
    """
    weight = state[..., 1, :].log() + state[..., 2, :]  # log of the denominator
    written = sites["k"] + sites["write_gate"].log() - weight
    faded = sites["log_decay"].cumsum(1)
    ahead = faded[:, None] - faded[:, :, None] + weight[:, :, None] - weight[:, None]
    return written.exp().mean(-1), upper(ahead.exp().mean(-1).permute(0, 3, 1, 2))


def upper(survival: Survival) -> Survival:
    """NaN where the later position is not later."""
    places = torch.arange(survival.shape[-1])
    return survival.masked_fill(places[:, None] > places, torch.nan)
