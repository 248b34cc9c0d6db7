"""Models that read numbers: what they take, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_core.errors import EmptyInput, InputError, MaskMismatch
from mi_core.layout import Layout
from mi_core.number_inputs import read_numbers
from mi_core.rows import RowText

NUMBERS = st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3)


@given(st.lists(NUMBERS, min_size=1, max_size=4))
def test_each_row_of_numbers_is_one_position(rows: list[list[float]]) -> None:
    read = read_numbers(rows, 3)
    assert read.ids[:, 0].tolist() == rows
    assert [len(row.ids) for row in read.rows] == [1] * len(rows)


@given(NUMBERS)
def test_a_list_an_array_and_a_tensor_are_the_same(row: list[float]) -> None:
    forms = (row, [row], [[row]], torch.tensor(row), np.array(row, dtype=np.float32))
    assert all(torch.equal(read_numbers(form, 3).ids.float(), torch.tensor([[row]])) for form in forms)


def test_a_mask_leaves_out_positions_and_rows_lie_to_the_left() -> None:
    values = torch.arange(8.0).reshape(2, 2, 2)
    read = read_numbers(values, 2, attention_mask=[[0, 1], [1, 1]])
    assert read.ids.tolist() == [[[0, 0], [2, 3]], [[4, 5], [6, 7]]]
    assert [row.tokens for row in read.rows] == [["2 3"], ["4 5", "6 7"]]
    assert Layout.of(read).ids.tolist() == [[[2, 3], [0, 0]], [[4, 5], [6, 7]]]


def test_a_row_of_numbers_keeps_its_names_on_disk() -> None:
    row = read_numbers([0.25, -3.0], 2).rows[0]
    assert RowText.from_json(row.to_json()).tokens == row.tokens == ["0.25 -3"]


@pytest.mark.parametrize(
    ("inputs", "error", "said"),
    [
        ("text", InputError, "no numbers"),
        (["a", "b"], InputError, "no numbers"),
        ([True, False], InputError, "bool"),
        ([], EmptyInput, "no number"),
        ([[1.0, 2.0], [1.0]], InputError, "equal rows"),
        (torch.zeros(2, 0), EmptyInput, "no number"),
        (torch.zeros(1, 1, 1, 2), InputError, "shape"),
        ([1.0, 2.0, 3.0], InputError, r"shape \[3\].*reads 2 numbers"),
        (torch.zeros(2, dtype=torch.complex64), InputError, "complex"),
        ([float("nan"), 0.0], InputError, "finite"),
    ],
)
def test_what_holds_no_numbers_is_refused(inputs: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        read_numbers(inputs, 2)


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(MaskMismatch):
        read_numbers([[1.0, 2.0]], 2, attention_mask=[[1, 1, 1]])
