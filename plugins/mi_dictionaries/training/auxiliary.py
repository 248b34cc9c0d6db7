"""The auxiliary loss: features that never fire learn to write what the others leave over."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_dictionaries.training.entries import DENSE_FROM, Entries
from mi_dictionaries.training.reading import PreActivations

__all__ = ["auxiliary_loss"]


def auxiliary_loss(
    pre: PreActivations,
    ranked: Float[Tensor, "token feature"],
    W_dec: Float[Tensor, "feature out"],
    left_over: Float[Tensor, "token out"],
    dead: Bool[Tensor, "feature"],
    *,
    signed: bool,
) -> Float[Tensor, ""]:
    """How far are the best dead features of each token from writing what is left over?

    Half as many as the output is wide, without ReLU and bias; less weight where fewer are dead than that. The dead
    features' part of the encoder is computed densely where most of them are taken, and otherwise only where taken.

    Source: Gao et al. 2024, appendix A.2; SAELens 6.54, topk_sae.py, ``calculate_topk_aux_loss``.
    """
    features = dead.nonzero().flatten()
    wanted = pre.x.shape[-1] // 2
    share = min(len(features) / wanted, 1.0)
    count = min(wanted, len(features))
    if count == 0:
        return left_over.new_zeros(())
    some = PreActivations(pre.weight[features], pre.bias[features], pre.centre, pre.x, pre.values[:, features])
    sizes = ranked[:, features]
    chosen = (sizes.abs() if signed else sizes).topk(count, dim=-1, sorted=False).indices
    if count > DENSE_FROM * len(features):
        kept = torch.zeros_like(some.values, dtype=torch.bool).scatter_(1, chosen, True)
        codes = some.read(None)
        codes = codes.with_values(codes.values * kept)
    else:
        codes = some.read(Entries.chosen(chosen, len(features)))
    return share * (codes.times(W_dec[features]) - left_over).square().sum() / len(left_over)
