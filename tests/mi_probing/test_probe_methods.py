"""Sparse, unsupervised, multilayer and scikit-learn's probes, and the names under which all of them are found."""

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as SklearnRidge

from mi_core.errors import InputError, MiError
from mi_probing import METHODS, Discriminant, Estimator, KMeans, Logistic, Mlp, Sparse, Tasks
from mi_probing.contrast import contrast_consistent, contrast_score
from mi_probing.logistic import fit_logistic
from mi_probing.methods import method_of
from mi_probing.scoring import chosen

SEEDS = st.integers(0, 2**31)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def two_classes(seed: int, examples: int = 60, d: int = 10, apart: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """In the first cell features 2 and 5 differ between the classes, in the second feature 7 alone."""
    labels = torch.arange(examples) % 2
    x = normal(seed, 2, examples, d)
    x[0, :, 2] += apart * labels
    x[0, :, 5] -= apart * labels
    x[1, :, 7] += apart * labels
    return x, labels


@given(SEEDS)
def test_sparse_probes_find_the_features_that_differ(seed):
    x, labels = two_classes(seed)
    fitted = Sparse(k=2).fit(x, Tasks.of(labels, 2, [1.0]))
    nonzero = fitted.weight[:, 0, 0] != 0
    assert nonzero.sum(-1).tolist() == [2, 2]
    assert nonzero[0].nonzero()[:, 0].tolist() == [2, 5]
    assert bool(nonzero[1, 7])
    alone = fit_logistic(x[:1, :, [2, 5]], Tasks.of(labels, 2, [1.0]))
    torch.testing.assert_close(fitted.weight[0, 0, 0, [2, 5]], alone.weight[0, 0, 0], rtol=0, atol=1e-4)


def test_a_sparse_probe_of_all_features_is_the_logistic_one():
    x, labels = two_classes(1, apart=1.0)
    tasks = Tasks.of(labels, 2, [1.0])
    one, other = (each.fit(x, tasks).outputs(x) for each in (Sparse(k=10), Logistic()))
    torch.testing.assert_close(one, other, rtol=0, atol=2e-3)


@pytest.mark.parametrize("k", [0, 11])
def test_a_number_of_features_that_there_is_not_is_refused(k):
    x, labels = two_classes(0)
    with pytest.raises(InputError, match=f"k={k}: there are 10 features"):
        Sparse(k=k).fit(x, Tasks.of(labels, 2, [1.0]))


@given(SEEDS, st.sampled_from([2, 3]))
def test_k_means_finds_classes_that_lie_apart_without_labels(seed, classes):
    labels = torch.arange(60) % classes
    x = normal(seed, 2, 60, 6) + 12 * torch.eye(6)[labels]
    few = labels.clone()
    few[classes * 3 :] = 0  # most labels are wrong, and change the naming at most
    said = chosen(KMeans().fit(x, Tasks.of(labels, classes)).outputs(x)[:, 0])
    assert torch.equal(said, labels.expand(2, -1))
    found = chosen(KMeans().fit(x, Tasks.of(few, classes)).outputs(x)[:, 0])
    for one in range(classes):
        assert len(set(found[0, labels == one].tolist())) == 1


def test_k_means_of_too_many_classes_is_refused():
    with pytest.raises(InputError, match="8 classes: k-means names from 2 to 7"):
        KMeans().fit(normal(0, 1, 16, 3), Tasks.of(torch.arange(16) % 8, 8))


def test_contrast_consistent_search_finds_truth_without_labels():
    truth = (torch.arange(80) % 2).float()
    sign, direction = 2 * truth - 1, torch.nn.functional.normalize(normal(5, 8), dim=0)
    content = normal(6, 2, 80, 8)
    positive = content + 4 * sign[:, None] * direction + 3
    negative = content - 4 * sign[:, None] * direction - 3
    found = contrast_consistent(positive, negative, steps=400)
    assert contrast_score(found, positive, negative, truth).min() > 0.95
    along = torch.nn.functional.cosine_similarity(found[0].weight[:, 0, 0], direction.expand(2, -1), dim=-1)
    assert along.abs().min() > 0.5
    half = contrast_score(found, positive, negative, 1 - truth)
    assert torch.equal(half, contrast_score(found, positive, negative, truth))


def test_statements_without_a_negation_are_refused():
    with pytest.raises(InputError, match=r"contrast pairs: \[1, 4, 3\] and \[1, 5, 3\]"):
        contrast_consistent(normal(0, 1, 4, 3), normal(0, 1, 5, 3))


def test_a_perceptron_reads_what_is_not_linear():
    x = normal(0, 2, 200, 4)
    labels = ((x[0, :, 0] * x[0, :, 1]) > 0).long()
    x[1] = x[0]
    tasks = Tasks.of(labels, 2, [1.0])
    accuracy = {
        name: float((chosen(METHODS[name].fit(x, tasks).outputs(x)) == labels).float().mean())
        for name in ("mlp", "logistic")
    }
    assert accuracy["mlp"] > 0.9
    assert accuracy["logistic"] < 0.7


def test_a_perceptron_sees_only_its_own_examples_and_regresses_too():
    x, y = normal(1, 1, 60, 3), normal(2, 60)
    used = torch.arange(60) < 40
    changed = torch.where(used[None, :, None], x, 50 * x)
    one, other = (Mlp(steps=20).fit(each, Tasks.of(y, 0, [1.0], used)) for each in (x, changed))
    torch.testing.assert_close(one.into, other.into, rtol=0, atol=1e-4)
    assert one.outputs(x).shape == (1, 1, 60, 1)


def test_an_estimator_of_scikit_learn_is_a_probe():
    x, labels = two_classes(3, apart=1.0)
    made = Estimator(LogisticRegression(tol=1e-8), "C", (0.5, 10.0), inverted=True, logits=True)
    tasks = Tasks.of(labels, 2, made.penalties, torch.arange(60) < 50)
    one, other = (each.fit(x, tasks).outputs(x) for each in (made, Logistic(tolerance=1e-6)))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-3)
    numbers = Tasks.of(normal(1, 60), 0, [3.0])
    found = Estimator(SklearnRidge(), "alpha", numbers=True).fit(x, numbers)
    torch.testing.assert_close(found.outputs(x), METHODS["ridge"].fit(x, numbers).outputs(x), rtol=0, atol=1e-4)


def test_an_estimator_without_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    x, labels = two_classes(0)
    with pytest.raises(MiError, match=r"pip install 'mi-core\[probing\]'"):
        Estimator(LogisticRegression()).fit(x, Tasks.of(labels, 2))


def test_methods_have_names_and_unknown_ones_are_listed():
    assert method_of("logistic") is METHODS["logistic"]
    assert method_of(Sparse(k=3)).name == "3-sparse"
    with pytest.raises(InputError, match="probe='svm': the probes are logistic, ridge"):
        method_of("svm")
    x, labels = two_classes(0)
    with pytest.raises(InputError, match="shrinkages from 0 to 1"):
        Discriminant(penalties=(2.0,)).fit(x, Tasks.of(labels, 2, [2.0]))
