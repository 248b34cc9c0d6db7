"""Calibrated probes against scikit-learn's calibration, and what cannot be calibrated."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from mi_core.errors import InputError
from mi_probing import Examples, Probe, Ridge, probing_of
from mi_probing.scoring import calibration_error

SURE = 4.0
"""How much too sure the probes of these tests are."""


def probe(seed: int, classes: int = 2, factor: float = SURE) -> tuple[Probe, LogisticRegression]:
    """A probe whose outputs are too large, and scikit-learn's classifier with the same numbers."""
    x, labels = drawn(seed, classes)
    names = [f"c{label}" for label in labels.tolist()]
    found = LogisticRegression().fit(x.numpy(), names)
    found.coef_, found.intercept_ = factor * found.coef_, factor * found.intercept_
    weight, bias = (torch.from_numpy(part).float() for part in (found.coef_, found.intercept_))
    means = torch.stack([x[labels == label].mean(0) for label in range(classes)])
    more = {"selected": {}, "pos": "-1", "model": "given", "family": ""}
    return Probe(weight, bias, means, tuple(found.classes_), "blocks.0.hook_resid_post", **more), found


def drawn(seed: int, classes: int, count: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centers = torch.randn(classes, 4, generator=torch.Generator().manual_seed(99))
    return centers[labels] + 1.5 * torch.randn(count, 4, generator=draw), labels


def named(labels: torch.Tensor) -> list[str]:
    return [f"c{label}" for label in labels.tolist()]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("classes", "method"), [(2, "sigmoid"), (3, "temperature")])
def test_calibration_is_that_of_scikit_learn(seed, classes, method):
    made, theirs = probe(seed, classes)
    x, labels = drawn(seed + 1000, classes)
    ours = made.calibrated(x, named(labels))
    wanted = CalibratedClassifierCV(FrozenEstimator(theirs), method=method).fit(x.numpy(), named(labels))
    fresh = drawn(seed + 2000, classes)[0]
    seen = ours.probabilities(fresh)
    torch.testing.assert_close(
        seen.double(), torch.from_numpy(wanted.predict_proba(fresh.numpy())).double(), rtol=0, atol=2e-3
    )


@given(st.integers(0, 99), st.sampled_from([2, 3]))
def test_odds_are_better_and_the_direction_stays(seed, classes):
    made, _ = probe(seed, classes)
    x, labels = drawn(seed + 1000, classes)
    ours = made.calibrated(x, named(labels))
    fresh, truth = drawn(seed + 2000, classes, 1500)
    before, after = (calibration_error(one.probabilities(fresh), truth) for one in (made, ours))
    assert float(after) < float(before)
    torch.testing.assert_close(*(torch.nn.functional.normalize(one.weight, dim=-1) for one in (made, ours)))
    if classes > 2:
        assert torch.equal(made.predict(fresh), ours.predict(fresh))


def test_a_probe_without_odds_gets_some_and_says_so_in_its_file(tmp_path):
    x, labels = drawn(0, 2)
    made = probing_of(Examples.of(x, named(labels)), probe=Ridge(penalties=(1.0,))).probe()
    held, truth = drawn(1, 2)
    ours = made.calibrated(held, named(truth), groups=[row // 2 for row in range(len(held))])
    assert "by 300 held-out examples: log loss" in ours.calibration
    fresh, truth = drawn(2, 2, 2000)
    assert float(calibration_error(ours.probabilities(fresh), truth)) < 0.05
    ours.save(tmp_path / "probe.safetensors")
    assert Probe.load(tmp_path / "probe.safetensors") == ours


def test_separable_examples_have_a_finite_scale():
    made, _ = probe(0)
    x, labels = drawn(1, 2)
    apart = x + 50 * (2 * labels[:, None] - 1) * made.direction
    assert torch.isfinite(made.calibrated(apart, named(labels)).weight).all()


def test_what_cannot_be_calibrated_is_said():
    made, _ = probe(0)
    x, labels = drawn(1, 2, 40)
    few = torch.cat([torch.zeros(30), torch.ones(6)]).long()
    with pytest.raises(InputError, match=r"by \[30, 6\] held-out examples of the classes: 10 of each are the least"):
        made.calibrated(x[:36], named(few))
    with pytest.raises(InputError, match=r"labels c7: the classes of .* are c0, c1"):
        made.calibrated(x, ["c7"] * 40)
    with pytest.raises(InputError, match="say the opposite of the probe"):
        made.calibrated(x, named(1 - labels))
    with pytest.raises(InputError, match="39 labels for 40 examples"):
        made.calibrated(x, named(labels)[1:])
