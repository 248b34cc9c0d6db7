"""Batched logistic regression against scikit-learn, one fit at a time, and what must not change it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mi_core.errors import InputError
from mi_probing.logistic import fit_logistic
from mi_probing.methods import probabilities
from mi_probing.tasks import Tasks

SEEDS = st.integers(0, 2**31)
FEW = settings(max_examples=10)  # each example is a dozen fits


def cells(seed: int, count: int = 2, examples: int = 40, d: int = 5) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=draw, dtype=torch.float64)
    return torch.randn(count, examples, d, generator=draw, dtype=torch.float64) @ mixing + 3


def labels_of(seed: int, classes: int, examples: int = 40) -> torch.Tensor:
    drawn = torch.randint(classes, (examples,), generator=torch.Generator().manual_seed(seed + 1))
    drawn[:classes] = torch.arange(classes)
    return drawn


@FEW
@given(SEEDS, st.sampled_from([2, 3, 4]), st.sampled_from([0.01, 1.0, 30.0]), st.booleans())
def test_every_cell_and_task_is_scikit_learn_s_fit(seed, classes, penalty, balanced):
    x, labels = cells(seed), labels_of(seed, classes)
    used = torch.rand(40, generator=torch.Generator().manual_seed(seed)) < 0.7
    used[:classes] = True
    whole = Tasks.of(labels, classes, [penalty, 3 * penalty])
    tasks = whole.joined(Tasks.of(labels, classes, [penalty], used, balanced=balanced))
    fitted = fit_logistic(x, tasks, tolerance=1e-8)
    for cell in range(len(x)):
        for task in range(len(tasks)):
            rows = tasks.weights[task] > 0
            seen, weights = x[cell, rows].numpy(), tasks.weights[task, rows].numpy()
            scaler = StandardScaler().fit(seen)
            C = 1 / float(tasks.penalty[0, task])  # noqa: N806
            reference = LogisticRegression(C=C, tol=1e-10, max_iter=10_000)
            reference.fit(scaler.transform(seen), labels[rows], sample_weight=weights)
            found = fitted.weight[cell, task].numpy() * scaler.scale_
            np.testing.assert_allclose(found, reference.coef_, rtol=0, atol=1e-4)
            odds = probabilities(fitted.outputs(x)[cell, task]).numpy()
            np.testing.assert_allclose(odds, reference.predict_proba(scaler.transform(x[cell])), rtol=0, atol=1e-4)


@FEW
@given(SEEDS, st.sampled_from([2, 3]))
def test_together_is_as_one_by_one(seed, classes):
    x, labels = cells(seed), labels_of(seed, classes)
    tasks = Tasks.of(labels, classes, [0.1, 100.0]).joined(Tasks.of(labels, classes, [1.0], torch.arange(40) < 30))
    together = fit_logistic(x, tasks, tolerance=1e-8)
    for cell in (1,):
        for task in range(len(tasks)):
            alone = fit_logistic(x[cell : cell + 1], tasks.only([task]), tolerance=1e-8)
            torch.testing.assert_close(alone.weight[0, 0], together.weight[cell, task], rtol=0, atol=1e-5)
            torch.testing.assert_close(alone.bias[0, 0], together.bias[cell, task], rtol=0, atol=1e-5)


@FEW
@given(SEEDS, st.floats(0.01, 100), st.floats(-5, 5))
def test_scale_and_origin_of_activations_change_no_standardised_probe(seed, scale, shift):
    x, labels = cells(seed), labels_of(seed, 2)
    tasks = Tasks.of(labels, 2, [1.0])
    one, other = (fit_logistic(each, tasks, tolerance=1e-8).outputs(each) for each in (x, scale * x + shift))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@FEW
@given(SEEDS, st.permutations([0, 1, 2]))
def test_renaming_classes_renames_outputs(seed, order):
    x, labels = cells(seed), labels_of(seed, 3)
    renamed = torch.tensor(order)[labels]
    one = fit_logistic(x, Tasks.of(labels, 3, [1.0]), tolerance=1e-8)
    other = fit_logistic(x, Tasks.of(renamed, 3, [1.0]), tolerance=1e-8)
    torch.testing.assert_close(one.weight, other.weight[:, :, order], rtol=0, atol=1e-5)


@FEW
@given(SEEDS)
def test_swapping_two_classes_turns_the_probe_round(seed):
    x, labels = cells(seed), labels_of(seed, 2)
    one = fit_logistic(x, Tasks.of(labels, 2, [1.0]), tolerance=1e-8)
    other = fit_logistic(x, Tasks.of(1 - labels, 2, [1.0]), tolerance=1e-8)
    torch.testing.assert_close(one.weight, -other.weight, rtol=0, atol=1e-5)
    torch.testing.assert_close(one.bias, -other.bias, rtol=0, atol=1e-5)


def test_examples_that_are_left_out_change_nothing():
    x, labels, used = cells(0), labels_of(0, 2), torch.arange(40) < 30
    tasks = Tasks.of(labels, 2, [1.0], used)
    one = fit_logistic(x, tasks, tolerance=1e-8)
    changed = torch.where(used[None, :, None], x, 100 * x - 7)
    other = fit_logistic(changed, tasks, tolerance=1e-8)
    torch.testing.assert_close(one.weight, other.weight, rtol=0, atol=1e-5)


def test_more_features_than_a_factor_is_worth_are_fitted_too(monkeypatch):
    x, labels = cells(1), labels_of(1, 2)
    tasks = Tasks.of(labels, 2, [1.0])
    one = fit_logistic(x, tasks, tolerance=1e-8)
    monkeypatch.setattr("mi_probing.preconditioning.WIDEST", 3)
    torch.testing.assert_close(fit_logistic(x, tasks, tolerance=1e-8).weight, one.weight, rtol=0, atol=1e-5)


def test_a_constant_feature_gets_no_weight():
    x = cells(2)
    x[..., 3] = 5.0
    fitted = fit_logistic(x, Tasks.of(labels_of(2, 2), 2, [1.0]))
    assert fitted.weight.isfinite().all()
    assert fitted.weight[..., 3].abs().max() == 0


def test_what_has_no_optimum_or_is_not_reached_is_refused():
    x, labels = cells(3), labels_of(3, 2)
    with pytest.raises(InputError, match="penalty 0: without a positive one"):
        fit_logistic(x, Tasks.of(labels, 2, [0.0]))
    with pytest.raises(InputError, match=r"after 2 iterations the gradient is .* larger penalty"):
        fit_logistic(x, Tasks.of(labels, 2, [0.1]), tolerance=1e-12, most=2)
