"""Factored matrices: every answer is that of the product."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import close, random

from mi_core.compat.transformer_lens import FactoredMatrix
from mi_core.errors import ValueMismatch

SIZES = st.integers(1, 5)


@st.composite
def matrices(draw: st.DrawFn, square: bool = False) -> FactoredMatrix:
    rows, inner, columns, stack = (draw(SIZES) for _ in range(4))
    seed, leading = draw(st.integers(0, 999)), (stack,) if draw(st.booleans()) else ()
    A = random(*leading, rows, inner, seed=seed, dtype=torch.float64)  # noqa: N806
    return FactoredMatrix(A, random(inner, rows if square else columns, seed=seed + 1, dtype=torch.float64))


@given(matrices(), st.integers(1, 5), st.integers(0, 99))
def test_products_are_those_of_the_whole(matrix: FactoredMatrix, size: int, seed: int) -> None:
    right = random(matrix.rdim, size, seed=seed, dtype=torch.float64)
    left = random(size, matrix.ldim, seed=seed, dtype=torch.float64)
    close((matrix @ right).AB, matrix.AB @ right)
    close(left @ matrix if isinstance(left @ matrix, torch.Tensor) else (left @ matrix).AB, left @ matrix.AB)
    close(matrix @ right[:, 0], matrix.AB @ right[:, 0])
    close(left[0] @ matrix, left[0] @ matrix.AB)
    close((matrix @ matrix.T).AB, matrix.AB @ matrix.AB.transpose(-2, -1))
    close((2 * matrix).AB, matrix.AB * 2)


@given(matrices())
def test_singular_values_are_those_of_the_whole(matrix: FactoredMatrix) -> None:
    U, S, V = matrix.svd()  # noqa: N806
    close(U * S[..., None, :] @ V.transpose(-2, -1), matrix.AB)
    close(matrix.norm(), matrix.AB.norm(dim=(-2, -1)))
    close(matrix.make_even().AB, matrix.AB)
    close(matrix.collapse_r().norm(dim=(-2, -1)), matrix.norm())
    close(matrix.collapse_l().norm(dim=(-2, -1)), matrix.norm())
    assert bool((S[..., :-1] >= S[..., 1:] - 1e-12).all())


@given(matrices(square=True))
def test_eigenvalues_have_the_products_traces(matrix: FactoredMatrix) -> None:
    whole = matrix.AB
    close(matrix.eigenvalues.sum(-1).real, whole.diagonal(dim1=-2, dim2=-1).sum(-1))
    close(matrix.eigenvalues.pow(2).sum(-1).real, (whole @ whole).diagonal(dim1=-2, dim2=-1).sum(-1))


def test_indexes_are_those_of_the_whole_with_rows_and_columns_kept() -> None:
    matrix = FactoredMatrix(random(2, 3, 4, 5), random(2, 3, 5, 6, seed=1))
    whole = matrix.AB
    close(matrix[1].AB, whole[1])
    close(matrix[1, 2].AB, whole[1, 2])
    close(matrix[:, 2, 1].AB, whole[:, 2, 1:2])
    close(matrix[0, 0, :, -1].AB, whole[0, 0, :, -1:])
    close(matrix.get_corner(2), whole[..., :2, :2])
    assert matrix.unsqueeze(0).shape == (1, 2, 3, 4, 6)
    assert matrix.ndim == 4
    with pytest.raises(ValueMismatch, match="no index"):
        matrix[0, 0, 0, 0, 0]


def test_factors_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueMismatch, match="last dim of A"):
        FactoredMatrix(random(2, 3), random(2, 3))
    with pytest.raises(ValueMismatch, match="broadcast"):
        FactoredMatrix(random(2, 2, 3), random(3, 3, 2))
    with pytest.raises(ValueMismatch, match="not square"):
        _ = FactoredMatrix(random(2, 3), random(3, 4)).eigenvalues
