"""Routings choose whom their papers say; groups, biases and floors do what they are for."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mi_decoder.routing import ChosenSoftmax, Groups, Routing, SparseMixer, TopK

SEEDS = st.integers(0, 9999)


def logits(seed: int, tokens: int = 5, n_experts: int = 8) -> Tensor:
    return torch.randn(tokens, n_experts, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(SEEDS, st.integers(1, 8))
def test_softmax_over_all_and_then_normalised_is_softmax_over_the_chosen(seed: int, top_k: int) -> None:
    given = logits(seed)
    one, weights = TopK(top_k, normalise=True).choose(given, None)
    other, wanted = ChosenSoftmax(top_k).choose(given, None)
    assert torch.equal(one, other)
    torch.testing.assert_close(weights, wanted)
    torch.testing.assert_close(weights.sum(-1), torch.ones(5, dtype=torch.float64))


@given(SEEDS, st.floats(1.0, 4.0))
def test_weights_are_divided_by_the_root_of_their_powers_sum(seed: int, power: float) -> None:
    _, weights = TopK(3, normalise=True, power=power).choose(logits(seed), None)
    torch.testing.assert_close((weights**power).sum(-1), torch.ones(5, dtype=torch.float64))


@given(SEEDS, st.floats(0.5, 3.0))
def test_logits_are_squeezed_below_a_cap_before_they_are_scored(seed: int, cap: float) -> None:
    given = 5 * logits(seed)
    indices, weights = TopK(3, score="sigmoid", cap=cap).choose(given, None)
    wanted = torch.sigmoid(cap * torch.tanh(given / cap))
    torch.testing.assert_close(weights, wanted.topk(3, -1).values)
    assert (weights <= 1 / (1 + math.exp(-cap)) + 1e-12).all()
    torch.testing.assert_close(wanted.gather(-1, indices), weights)


@given(SEEDS)
def test_a_bias_may_be_added_to_logits_instead_of_scores(seed: int) -> None:
    given, bias = logits(seed), torch.zeros(8, dtype=torch.float64)
    bias[3] = 1.0
    indices, weights = TopK(2, score="sigmoid", by_logits=True).choose(given, bias)
    assert torch.equal(indices, (given + bias).topk(2, -1).indices)
    torch.testing.assert_close(weights, torch.sigmoid(given).gather(-1, indices))


@given(SEEDS)
def test_a_bias_takes_part_in_the_choice_and_not_in_the_weights(seed: int) -> None:
    given, bias = logits(seed), torch.zeros(8, dtype=torch.float64)
    bias[3] = 2.0
    indices, weights = TopK(2, score="sigmoid").choose(given, bias)
    assert (indices[:, 0] == 3).all()
    torch.testing.assert_close(weights, torch.sigmoid(given).gather(-1, indices))


@given(SEEDS, st.integers(1, 4), st.sampled_from([1, 2]))
def test_no_expert_comes_from_a_group_that_is_not_among_the_best(seed: int, kept: int, best: int) -> None:
    given = logits(seed)
    indices, _ = TopK(kept * 2, groups=Groups(4, kept, best, -math.inf)).choose(given, None)
    scores = torch.softmax(given, -1).view(5, 4, 2)
    good = (scores.sum(-1) if best == 2 else scores.amax(-1)).topk(kept, -1).indices
    for row, chosen in enumerate(indices):
        assert set((chosen // 2).tolist()) == set(good[row].tolist())


def test_a_floor_bounds_the_sum_that_weights_are_divided_by_and_a_scale_comes_last() -> None:
    given = torch.full((1, 4), -3.0)
    share = torch.sigmoid(torch.tensor(-3.0))
    _, weights = TopK(2, score="sigmoid", normalise=True, floor=0.5, scale=3.0).choose(given, None)
    torch.testing.assert_close(weights, (share / 0.5 * 3.0).expand(1, 2))
    _, weights = TopK(2, score="sigmoid", normalise=True, extra=share.item()).choose(given, None)
    torch.testing.assert_close(weights, torch.full((1, 2), 1 / 3))


def test_sparse_mixing_counts_only_experts_that_come_close() -> None:
    given = torch.tensor([[4.0, 3.99, 3.0, 1.0]])
    indices, weights = SparseMixer(0.01).choose(given, None)
    assert indices.tolist() == [[0, 1]]
    # the third expert is too far from either
    assert weights[0, 0] == pytest.approx(torch.softmax(given[0, :2], 0)[0].item())
    assert weights[0, 1] == pytest.approx(1.0)


@pytest.mark.parametrize("routing", [TopK(3), ChosenSoftmax(3), SparseMixer(0.01)], ids=lambda r: type(r).__name__)
def test_the_best_expert_comes_first_and_none_comes_twice(routing: Routing) -> None:
    indices, _ = routing.choose(logits(1, 50), None)
    assert torch.equal(indices[:, 0], logits(1, 50).argmax(-1))
    assert all(len(set(row.tolist())) == routing.top_k for row in indices)


def test_scores_are_at_least_float32() -> None:
    given = logits(0).bfloat16()
    assert TopK(2).choose(given, None)[1].dtype is torch.float32
    assert ChosenSoftmax(2, wide=False).choose(given, None)[1].dtype is torch.bfloat16
