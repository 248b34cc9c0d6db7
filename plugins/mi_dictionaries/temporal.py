"""Temporal autoencoders: what earlier tokens predict is taken away, and only what is new is encoded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from mi_core.errors import ValueMismatch
from mi_dictionaries.activations import ReLU, TopK
from mi_dictionaries.features import Features
from mi_dictionaries.rebuilding import Rebuilding
from mi_dictionaries.rows import rows_of

__all__ = ["Temporal", "TemporalAttention"]


@dataclass(frozen=True, eq=False, kw_only=True)
class TemporalAttention:
    """Causal attention over codes: each token's query asks the codes of the tokens before it.

    Weights are ``[out in]``. Source: SAELens 6.54, temporal_sae.py, ``ManualAttention``.
    """

    n_heads: int
    k_ctx: tuple[Float[Tensor, "bottleneck feature"], Float[Tensor, "bottleneck"]]
    q_target: tuple[Float[Tensor, "bottleneck feature"], Float[Tensor, "bottleneck"]]
    v_ctx: tuple[Float[Tensor, "feature feature"], Float[Tensor, "feature"]]
    c_proj: tuple[Float[Tensor, "feature feature"], Float[Tensor, "feature"]]

    def __call__(self, codes: Float[Tensor, "batch pos feature"]) -> Float[Tensor, "batch pos feature"]:
        """The codes that earlier tokens predict for each token."""
        shifted = F.pad(codes, (0, 0, 1, 0))[:, :-1]  # a token's context ends before it
        q, k, v = (
            F.linear(of, weight.to(of.dtype), bias.to(of.dtype)).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # type: ignore[no-untyped-call]
            for of, (weight, bias) in ((codes, self.q_target), (shifted, self.k_ctx), (shifted, self.v_ctx))
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        weight, bias = self.c_proj
        return torch.relu(F.linear(mixed, weight.to(mixed.dtype), bias.to(mixed.dtype)))


@dataclass(frozen=True, eq=False, kw_only=True)
class Temporal(Rebuilding):
    """An autoencoder of what is new at a token: its features are the novel codes, predictions join the reconstruction.

    What is encoded has positions as the last dim of its tokens, all of a row's from the first on. Without ``W_enc`` the
    encoder is the decoder transposed. ``k``: how many codes are new at most; None: as many as are positive.

    Source: Lubana et al. 2025, "Priors in Time", arXiv 2511.01836; SAELens 6.54, temporal_sae.py. ``decode`` there
    leaves the prediction out; here it travels with the features.
    """

    W_enc: Float[Tensor, "d feature"] | None = None
    attention: tuple[TemporalAttention, ...] = ()
    k: int | None = None
    eps: float = 1e-6

    def encode(self, x: Float[Tensor, "..."], *, sparse: bool = False) -> Features:
        """The novel codes of whole rows."""
        entered = self.enter(x)
        if not entered.shape:
            raise ValueMismatch(
                f"the dictionary at {self.site_in!r} looks across positions: [... pos {self.d_in}] is needed, it was "
                f"given {list(x.shape)}.",
                shape=tuple(x.shape),
            )
        dtype = torch.promote_types(entered.h.dtype, self.W_dec.dtype)
        whole = entered.h.to(dtype).reshape(-1, entered.shape[-1], self.d_in)
        residual = whole
        for layer in self.attention:
            codes = layer(self._codes(residual))
            written = codes @ self.W_dec.to(dtype)
            size = written.norm(dim=-1, keepdim=True) + self.eps
            residual = residual - (written * residual).sum(-1, keepdim=True) / size.pow(2) * written
        flat = self._codes(residual).reshape(-1, self.d_sae)
        novel = (ReLU() if self.k is None else TopK(self.k))(flat).reshape(*entered.shape, self.d_sae)
        predicted = (whole - residual).reshape(-1, self.d_in)
        features = Features(entered.shape, self.d_sae, novel, state=entered.state, heads=entered.heads, base=predicted)
        return features.sparse() if sparse else features

    def _codes(self, residual: Float[Tensor, "batch pos d"]) -> Float[Tensor, "batch pos feature"]:
        weight = self.W_dec.T if self.W_enc is None else self.W_enc
        return torch.relu(residual @ weight.to(residual.dtype) / (4 * self.d_in))

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What it makes of activations."""
        return self.decode(self.encode(x))

    def encoder_rows(self, indices: Int[Tensor, "n"]) -> Float[Tensor, "n d"]:
        """The directions in which some features read."""
        return rows_of(self.W_dec if self.W_enc is None else self.W_enc.T, indices)
