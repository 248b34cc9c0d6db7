"""Regions, accuracies, ablations, roles and surprise of small networks, against what brute force says."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mi_core as mi
from mi_algzoo.ablation import unit_ablation
from mi_algzoo.accuracy import accuracy, accuracy_estimates, answers
from mi_algzoo.cones import cut, cut_all, measure, orthants
from mi_algzoo.regions import linear_map, listed, pattern_of, regions
from mi_algzoo.roles import unit_roles
from mi_algzoo.standardise import standardised
from mi_algzoo.surprise import Explanation, answer_bits, surprise
from mi_algzoo.tasks import TASKS
from mi_algzoo.weights import RNNWeights
from mi_core.errors import InputError, UnsupportedAnalysis

SEEDS = st.integers(0, 9999)


def network(seed: int, hidden: int = 3, n: int = 3, task: str = "second_argmax") -> mi.Model:
    """A random network, wide enough that its units switch."""
    model = mi.build({"model_type": "algzoo_rnn", "hidden_size": hidden, "seq_len": n, "task": task}, trainable=False)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.backend.parameters():  # type: ignore[attr-defined]
            parameter.copy_(torch.randn(parameter.shape, generator=draw))
    return model


def inputs(n: int, rows: int = 20_000, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seed=SEEDS, n=st.integers(2, 5), hidden=st.integers(1, 6))
def test_the_fast_path_is_the_model(seed: int, n: int, hidden: int) -> None:
    model, x = network(seed, hidden, n), inputs(n, 50)
    torch.testing.assert_close(RNNWeights.of(model)(x).float(), model.run(x).last_logits, rtol=1e-4, atol=1e-4)


@given(seed=SEEDS)
def test_a_standard_form_computes_the_same(seed: int) -> None:
    weights = RNNWeights.of(network(seed))
    found = standardised(weights)
    torch.testing.assert_close(found.weights(inputs(3, 100)), weights(inputs(3, 100)))
    torch.testing.assert_close(found.weights.w_ih.abs(), torch.ones(3, dtype=torch.float64))


def test_a_unit_that_reads_nothing_keeps_its_scale() -> None:
    weights = RNNWeights(torch.tensor([2.0, 0.0]), torch.ones(2, 2), torch.ones(1, 2), 2)
    assert standardised(weights).blind == (1,)
    torch.testing.assert_close(standardised(weights).weights(inputs(2, 9).float()), weights(inputs(2, 9).float()))


@given(seed=SEEDS, n=st.integers(2, 3))
def test_pieces_of_a_cut_cone_are_the_cone(seed: int, n: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    cones = list(torch.randn(3, n, n, generator=draw, dtype=torch.float64))
    normals = torch.randn(4, n, generator=draw, dtype=torch.float64)
    for cone in cones:
        pieces = torch.stack(cut_all([cone], normals))
        torch.testing.assert_close(measure(pieces).sum(), measure(cone[None])[0])
        sides = (pieces.sum(1) @ normals.T).sign()
        assert bool(((pieces @ normals.T) * sides[:, None] > -1e-9).all())
    assert [side for _, side in cut(orthants(n)[0], torch.ones(n, dtype=torch.float64))] == [1]


@settings(max_examples=10)
@given(seed=SEEDS, n=st.integers(2, 3), hidden=st.integers(1, 4))
def test_every_region_that_inputs_fall_into_is_listed_with_its_share(seed: int, n: int, hidden: int) -> None:
    model, x = network(seed, hidden, n), inputs(n)
    found = listed(RNNWeights.of(model))
    shares = {tuple(pattern.flatten().tolist()): share for pattern, share in found}
    assert sum(shares.values()) == pytest.approx(1.0)
    seen, counts = torch.unique(pattern_of(RNNWeights.of(model), x).flatten(1), dim=0, return_counts=True)
    for pattern, count in zip(seen.tolist(), counts.tolist(), strict=True):
        share = shares[tuple(pattern)]  # a region that is not listed is a KeyError
        # five standard deviations, and a few inputs where a region is too small for those
        assert abs(count / len(x) - share) < (5 * math.sqrt(share * (1 - share) * len(x)) + 5) / len(x)


@given(seed=SEEDS)
def test_the_map_of_a_region_is_the_network_on_it(seed: int) -> None:
    weights, x = RNNWeights.of(network(seed)), inputs(3, 20)
    for row, pattern in zip(x, pattern_of(weights, x), strict=True):
        torch.testing.assert_close(linear_map(weights, pattern) @ row, weights(row[None])[0])


def test_of_two_numbers_regions_are_those_between_critical_angles() -> None:
    weights = RNNWeights.of(network(5, hidden=4, n=2))
    angle = torch.linspace(0, 2 * math.pi, 200_001, dtype=torch.float64)[:-1] + 1e-7
    circle = pattern_of(weights, torch.stack((angle.cos(), angle.sin()), 1)).flatten(1)
    assert len(listed(weights)) == len(torch.unique(circle, dim=0))


def test_more_numbers_are_sampled_and_say_what_they_cover() -> None:
    found = regions(network(3, hidden=3, n=5), samples=3000)
    assert not found.exact
    assert 0.5 < found.covered <= 1
    assert float(found.share.values.sum()) == pytest.approx(1.0)
    assert "linear regions" in found.to_html() or "Linear regions" in found.to_html()


@settings(max_examples=10)
@given(seed=SEEDS, n=st.integers(2, 3), task=st.sampled_from(["second_argmax", "argmedian"]))
def test_exact_accuracies_are_what_many_inputs_give(seed: int, n: int, task: str) -> None:
    n = 3 if task == "argmedian" else n
    model, x = network(seed, n=n), inputs(n)
    counted = float((answers(model, x) == TASKS[task].label(x)).double().mean())
    exact = accuracy(model, task)
    assert abs(counted - exact) < 5 * math.sqrt(max(exact * (1 - exact), 1e-4) / len(x))


def test_estimates_come_nearer_with_more_cones() -> None:
    found = accuracy_estimates(network(1), "second_argmax", cones=(0.05, 0.5, 1.0), samples=(100,))
    assert float(found.error.values[2]) == pytest.approx(0, abs=1e-20)
    assert found.work.values[:3].diff().gt(0).all()
    assert float(found.error.values[0]) > float(found.error.values[1]) > 0


def test_ablations_are_zeros_at_every_step() -> None:
    model = network(2)
    x = TASKS["second_argmax"].draw(2000, 3, 0)
    found = unit_ablation(model, "second_argmax", samples=2000)
    label = TASKS["second_argmax"].label(x)
    for units in ([0], [1, 2]):
        zero = mi.intervene("blocks.*.hook_resid_post", mi.Zero().at(d_model=units))
        counted = float((model.run(x, zero).last_logits.argmax(-1) == label).double().mean())
        assert float(found.accuracy.values[units[0], units[-1]]) == pytest.approx(counted)
    assert torch.equal(found.interaction.values, found.interaction.values.T)


def test_a_unit_that_computes_a_maximum_is_seen_to() -> None:
    model = network(0, hidden=2, n=2)
    with torch.no_grad():
        model.backend.weight_ih.copy_(torch.tensor([[1.0], [1.0]]))  # type: ignore[attr-defined]
        model.backend.weight_hh.copy_(torch.tensor([[-1.0, 0.0], [0.0, 0.0]]))  # type: ignore[attr-defined]
    found = unit_roles(model)
    assert found.best[1] == ("x1 - x0, or 0", "x1, or 0") or found.best[1][1] == "x1, or 0"


def test_bits_count_what_is_missed_and_where() -> None:
    given_ = torch.tensor([0, 1, 2, 3])
    assert answer_bits(given_, None, 4) == 8
    assert answer_bits(given_, given_, 4) == pytest.approx(math.log2(5))
    one_off = torch.tensor([0, 1, 2, 0])
    assert answer_bits(given_, one_off, 4) == pytest.approx(math.log2(5) + math.log2(4) + math.log2(3))


def test_a_right_explanation_is_less_surprising_than_none() -> None:
    model = network(4)
    weights = RNNWeights.of(model)
    itself = Explanation("itself", weights.size * 16.0, lambda x: weights(x).argmax(-1))
    found = surprise(model, "second_argmax", [Explanation("none", 0.0), itself], samples=5000)
    assert found.best == "itself"
    assert float(found.agreement.sel(explanation="itself").values) == 1
    assert float(found.unexplained.sel(explanation="none").values) == pytest.approx(5000 * math.log2(3))


def test_models_that_are_none_of_these_are_refused() -> None:
    model = mi.load("tiny-world")
    with pytest.raises(UnsupportedAnalysis, match="algzoo_rnn"):
        regions(model)
    with pytest.raises(InputError, match="another task"):
        accuracy(network(0), "longest_cycle")
    with pytest.raises(InputError, match="never right"):
        accuracy(network(0), "median")
