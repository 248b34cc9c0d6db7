"""Matching pursuit: features are taken one by one, each the best for what the ones before it left."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_dictionaries.features import Features
from mi_dictionaries.rebuilding import Rebuilding
from mi_dictionaries.rows import rows_of

__all__ = ["MatchingPursuit"]

CELLS = 1 << 23
"""How many correlations are held at a time."""


@dataclass(frozen=True, eq=False, kw_only=True)
class MatchingPursuit(Rebuilding):
    """An autoencoder without an encoder: its decoder's rows are matched with what is left of the activations.

    Each round adds the row that fits best, as much of it as fits, until little is left, until a round brings no new
    feature, or until ``max_iterations`` (the width, where it is None).

    Source: Costa et al. 2025, "From Flat to Hierarchical: Extracting Sparse Representations with Matching Pursuit";
    SAELens 6.54, matching_pursuit_sae.py, whose bias is added only where it was subtracted.
    """

    residual_threshold: float = 1e-2
    max_iterations: int | None = None
    stop_on_duplicate_support: bool = True

    def encode(self, x: Float[Tensor, "..."], *, sparse: bool = False) -> Features:
        """The features of activations, a part of the tokens at a time."""
        entered = self.enter(x)
        h = entered.h.to(torch.promote_types(entered.h.dtype, self.W_dec.dtype))
        size = max(1, CELLS // self.d_sae)
        found = [self._pursue(part, first * size) for first, part in enumerate(torch.split(h, size))]
        token, index, values = (torch.cat(parts) for parts in zip(*found, strict=True))
        features = Features(entered.shape, self.d_sae, values, token, index, entered.state, entered.heads)
        return features if sparse else features.with_dense(features.dense())

    def _pursue(
        self, residual: Float[Tensor, "tokens d"], first: int
    ) -> tuple[Int[Tensor, "active"], Int[Tensor, "active"], Float[Tensor, "active"]]:
        weight = self.W_dec.to(residual.dtype)
        live = torch.arange(len(residual), device=residual.device)
        # pairs as one number, token * d_sae + feature, each with what its rounds added
        pairs: list[Tensor] = []
        added: list[Tensor] = []
        taken = residual.new_zeros(len(residual), 0, dtype=torch.long)
        for _ in range(self.max_iterations or self.d_in):
            best = (residual.detach() @ weight.detach().T).argmax(-1)
            rows = weight[best]
            values = torch.relu((residual * rows).sum(-1))
            residual = residual - values[:, None] * rows
            pairs.append(live * self.d_sae + best)
            added.append(values)
            done = residual.detach().norm(dim=-1) < self.residual_threshold
            if self.stop_on_duplicate_support:
                done |= (taken == best[:, None]).any(-1) | (values.detach() == 0)
            keep = ~done
            live, residual = live[keep], residual[keep]
            taken = torch.cat([taken[keep], best[keep, None]], dim=1)
            if not len(live):
                break
        every = torch.cat(pairs) if pairs else live
        unique, place = torch.unique(every, return_inverse=True)
        values = residual.new_zeros(len(unique))
        if pairs:
            values = values.index_add(0, place, torch.cat(added))
        on = values.detach() != 0
        return unique[on] // self.d_sae + first, unique[on] % self.d_sae, values[on]

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What it makes of activations."""
        return self.decode(self.encode(x, sparse=True))

    def encoder_rows(self, indices: Int[Tensor, "n"]) -> Float[Tensor, "n d"]:
        """The directions that are matched: those of the decoder."""
        return rows_of(self.W_dec, indices)
