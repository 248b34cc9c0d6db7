from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import SEEDS, close, random

from mi_core.errors import ValueMismatch
from mi_core.subspaces import component, orthonormal, unit, wide


@given(st.integers(1, 4), SEEDS)
def test_a_basis_is_orthonormal_and_spans_the_same(k: int, seed: int) -> None:
    given_, x = random(k, 6, seed=seed) * 7, random(2, 6, seed=seed + 1)
    basis = orthonormal(given_, x, "here")
    close(basis @ basis.T, torch.eye(k))
    close(component(given_, basis), given_, 1e-4)
    inside = component(x, basis)
    close(component(inside, basis), inside)
    close((x - inside) @ given_.T, torch.zeros(2, k), 1e-4)


@pytest.mark.parametrize(
    ("basis", "said"),
    [
        (torch.zeros(3), "zero or not finite"),
        (torch.tensor([1.0, float("nan"), 0.0]), "zero or not finite"),
        (torch.ones(2, 3), "depend on each other"),
        (torch.randn(4, 3), "depend on each other"),
        (torch.ones(4), r"has 3 entries .*got \[4\]"),
        (torch.ones(1, 1, 3), r"got \[1, 1, 3\]"),
        (torch.ones(()), r"got \[\]"),
    ],
)
def test_what_is_no_basis_is_refused(basis: torch.Tensor, said: str) -> None:
    with pytest.raises(ValueMismatch, match=said):
        orthonormal(basis, torch.zeros(2, 3), "here")


def test_one_direction_is_one_vector() -> None:
    close(unit(torch.tensor([0.0, 3.0]), torch.zeros(1, 2), "here"), torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueMismatch, match="one vector"):
        unit(torch.ones(1, 2), torch.zeros(1, 2), "here")


def test_half_precision_widens_and_double_stays() -> None:
    assert wide(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert wide(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
    x = random(3, 5, dtype=torch.float64)
    basis = orthonormal(random(2, 5, dtype=torch.float64), x, "here")
    inside = component(x, basis)
    assert float((component(inside, basis) - inside).abs().max()) < 1e-12
