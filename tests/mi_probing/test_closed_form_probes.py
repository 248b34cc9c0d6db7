"""Ridge, discriminants and differences of means: the closed-form optimum, and scikit-learn's numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LinearRegression, RidgeClassifier
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.preprocessing import StandardScaler

from mi_probing import MassMean
from mi_probing.closed_forms import fit_discriminant, fit_ridge
from mi_probing.tasks import Tasks

SEEDS = st.integers(0, 2**31)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(seed: int, classes: int, examples: int = 50, d: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(examples) % classes
    mixing = torch.linalg.qr(normal(seed + 1, d, d)).Q * torch.linspace(1, 4, d)
    return normal(seed, 2, examples, d) @ mixing + normal(seed + 2, classes, d)[labels], labels


@given(SEEDS, st.sampled_from([0.0, 0.5, 20.0]))
def test_ridge_on_numbers_is_scikit_learn_s(seed, alpha):
    x, _ = drawn(seed, 2)
    y = normal(seed + 5, 50)
    used = torch.arange(50) < 35
    fitted = fit_ridge(x, Tasks.of(y, 0, [alpha], used))
    for cell in range(2):
        scaler = StandardScaler().fit(x[cell, used])
        reference = SklearnRidge(alpha) if alpha else LinearRegression()
        reference.fit(scaler.transform(x[cell, used]), y[used])
        said = fitted.outputs(x)[cell, 0, :, 0].numpy()
        np.testing.assert_allclose(said, reference.predict(scaler.transform(x[cell])), rtol=0, atol=1e-4)


@given(SEEDS, st.sampled_from([2, 3]), st.sampled_from([0.5, 20.0]))
def test_ridge_on_classes_is_scikit_learn_s(seed, classes, alpha):
    x, labels = drawn(seed, classes)
    fitted = fit_ridge(x, Tasks.of(labels, classes, [1.0, alpha]))
    for cell in range(2):
        scaled = StandardScaler().fit_transform(x[cell])
        reference = RidgeClassifier(alpha).fit(scaled, labels)
        said = fitted.outputs(x)[cell, 1].numpy()
        wanted = reference.decision_function(scaled).reshape(said.shape)
        np.testing.assert_allclose(said, wanted, rtol=0, atol=1e-4)


@given(SEEDS, st.sampled_from([2, 3]), st.sampled_from([0.0, 0.2, 1.0]))
def test_the_discriminant_is_scikit_learn_s(seed, classes, shrinkage):
    x, labels = drawn(seed, classes)
    fitted = fit_discriminant(x, Tasks.of(labels, classes, [0.5, shrinkage]))
    for cell in range(2):
        scaled = StandardScaler().fit_transform(x[cell])
        reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(scaled, labels)
        said = fitted.outputs(x)[cell, 1].numpy()
        wanted = reference.decision_function(scaled).reshape(said.shape)
        if classes > 2:  # scikit-learn's rows have a shared constant that softmax does not see
            said, wanted = (each - each.mean(1, keepdims=True) for each in (said, wanted))
        np.testing.assert_allclose(said, wanted, rtol=1e-4, atol=1e-4)


def test_probes_of_gaussians_reach_the_optimum():
    """Two Gaussians of one covariance: the best direction is the covariance's inverse times the difference of means."""
    d, count = 5, 20_000
    mixing, apart = normal(1, d, d), normal(2, d)
    labels = torch.arange(count) % 2
    x = (normal(3, count, d) @ mixing.T + labels[:, None] * apart)[None]
    best = torch.linalg.solve(mixing @ mixing.T, apart)
    distance = float(apart @ best) ** 0.5
    optimum = float(torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(distance / 2)))
    tasks = Tasks.of(labels, 2, [0.0])
    found = {
        "discriminant": fit_discriminant(x, tasks),
        "corrected": MassMean(corrected=True).fit(x, tasks),
        "ridge": fit_ridge(x, tasks),
        "plain": MassMean().fit(x, tasks),
    }
    cosine = {name: torch.cosine_similarity(one.weight[0, 0, 0], best, dim=0) for name, one in found.items()}
    accuracy = {name: ((one.outputs(x)[0, 0, :, 0] > 0) == labels).double().mean() for name, one in found.items()}
    for name in ("discriminant", "corrected", "ridge"):
        assert cosine[name] > 0.999
        assert accuracy[name] == pytest.approx(optimum, abs=0.005)
    torch.testing.assert_close(found["corrected"].weight[0, 0, 0], best, rtol=0.05, atol=0.05)
    means = x[0, labels == 1].mean(0) - x[0, labels == 0].mean(0)
    torch.testing.assert_close(found["plain"].weight[0, 0, 0], means)


@given(SEEDS)
def test_the_difference_of_means_chooses_the_nearest_mean(seed):
    x, labels = drawn(seed, 3)
    said = MassMean().fit(x, Tasks.of(labels, 3, [0.0])).outputs(x)[:, 0].argmax(-1)
    means = torch.stack([x[:, labels == one].mean(1) for one in range(3)], 1)
    assert torch.equal(said, torch.cdist(x, means).argmin(-1))
