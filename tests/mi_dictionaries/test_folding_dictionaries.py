"""Folded dictionaries are the same functions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import mi_dictionaries as md
from mi_core.errors import BadConfig

D, F = 6, 24
SEEDS = st.integers(0, 2**16)
SCALES = st.floats(0.1, 10.0)


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(seed: int, **more: Any) -> md.SparseDictionary:
    names = {"W_enc": (D, F), "b_enc": (F,), "W_dec": (F, D), "b_dec": (D,), "b_in": (D,)}
    weights = {name: numbers(seed + i, *shape) for i, (name, shape) in enumerate(names.items())}
    return md.SparseDictionary(reads=("blocks.0.hook_resid_post",), **(weights | more))


GATED = md.Gated(numbers(1, F), numbers(2, F), 0.3 * numbers(3, F))
PROPORTIONAL = {
    "relu": md.ReLU(),
    "jumprelu": md.JumpReLU(numbers(4, F)),
    "jumprelu without relu": md.JumpReLU(numbers(4, F), relu=False),
    "one threshold": md.JumpReLU(0.4),
    "gated": GATED,
}


@pytest.mark.parametrize("name", PROPORTIONAL)
@given(SEEDS)
def test_folding_norms_keeps_reconstructions_and_scales_features(name: str, seed: int) -> None:
    sae = made(seed, activation=PROPORTIONAL[name], W_skip=numbers(seed + 9, D, D))
    folded = md.fold_decoder_norms(sae)
    x = numbers(seed + 10, 8, D)
    torch.testing.assert_close(folded.decoder_norms(), torch.ones(F, dtype=torch.float64))
    torch.testing.assert_close(folded.encode(x).dense(), sae.encode(x).dense() * sae.decoder_norms())
    torch.testing.assert_close(folded.forward(x), sae.forward(x))


@given(SEEDS)
def test_folding_norms_of_several_writes_takes_the_norm_over_all(seed: int) -> None:
    decoders = numbers(seed + 5, F, 3, D)
    sae = made(seed, W_dec=md.Stacked(tuple(decoders.unbind(1))), b_dec=numbers(seed + 6, 3, D), writes=tuple("abc"))
    folded = md.fold_decoder_norms(sae)
    x = numbers(seed + 10, 8, D)
    torch.testing.assert_close(folded.encode(x).dense(), sae.encode(x).dense() * decoders.flatten(1).norm(dim=-1))
    torch.testing.assert_close(folded.forward(x), sae.forward(x))


@given(SEEDS)
def test_folding_norms_of_competing_features_is_exact_only_where_they_compete_by_norms(seed: int) -> None:
    x = numbers(seed + 10, 8, D)
    for activation in (md.TopK(4), md.AbsTopK(4), md.GroupMax(4)):
        with pytest.raises(BadConfig, match="would let others win"):
            md.fold_decoder_norms(made(seed, activation=activation))
        sae = made(seed, activation=activation).with_decoder_norms()
        folded = md.fold_decoder_norms(sae)
        torch.testing.assert_close(folded.encode(x).dense(), sae.encode(x).dense())
        torch.testing.assert_close(folded.forward(x), sae.forward(x))
    with pytest.raises(BadConfig, match="not proportional"):
        md.fold_decoder_norms(made(seed, activation=md.TanhReLU()))


@pytest.mark.parametrize("activation", [*PROPORTIONAL.values(), md.TopK(4), md.TanhReLU()], ids=str)
@given(SEEDS, SCALES)
def test_folding_a_scale_keeps_features_and_divides_the_reconstruction(
    activation: md.Activation, seed: int, scale: float
) -> None:
    sae = made(seed, activation=activation, W_skip=numbers(seed + 9, D, D))
    if isinstance(activation, md.TopK):
        sae = sae.with_decoder_norms()
    folded = md.fold_scale(sae, scale)
    assert isinstance(folded, md.SparseDictionary)
    x = numbers(seed + 10, 8, D)
    torch.testing.assert_close(folded.encode(x).dense(), sae.encode(scale * x).dense())
    torch.testing.assert_close(folded.forward(x), sae.forward(scale * x) / scale)
    torch.testing.assert_close(md.fold_scale(sae, scale, 3.0).forward(x), sae.forward(scale * x) / 3.0)


@given(SEEDS, SCALES)
def test_folding_a_scale_into_matching_pursuit_divides_its_features(seed: int, scale: float) -> None:
    rows = torch.nn.functional.normalize(numbers(seed, F, D), dim=-1)
    bias = numbers(seed + 1, D)
    pursuit = md.MatchingPursuit(reads=("blocks.0.hook_resid_post",), W_dec=rows, b_in=bias, b_dec=bias)
    folded = md.fold_scale(pursuit, scale)
    x = numbers(seed + 2, 8, D)
    torch.testing.assert_close(folded.encode(x).dense(), pursuit.encode(scale * x).dense() / scale)
    torch.testing.assert_close(folded.forward(x), pursuit.forward(scale * x) / scale)
    with pytest.raises(BadConfig, match="one scale"):
        md.fold_scale(pursuit, scale, scale + 1)


def test_a_scale_does_not_go_through_a_norm() -> None:
    with pytest.raises(BadConfig, match="does not reach its weights"):
        md.fold_scale(replace(made(0), transforms=(md.LayerNorm(),)), 2.0)
