"""Models that read numbers: what they take, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_core.errors import EmptyInput, InputError, MaskMismatch
from mi_core.number_inputs import read_numbers
from mi_core.rows import RowText

NUMBERS = st.floats(-100, 100, width=32)


@given(st.lists(st.lists(NUMBERS, min_size=1, max_size=4), min_size=1, max_size=3))
def test_rows_of_unequal_lengths_are_padded_and_masked(rows: list[list[float]]) -> None:
    read = read_numbers(rows)
    mask = torch.ones(read.ids.shape, dtype=torch.bool) if read.mask is None else read.mask
    assert [values[real].tolist() for values, real in zip(read.ids, mask, strict=True)] == rows
    assert not read.ids[~mask].any()
    assert [len(row.ids) for row in read.rows] == [len(row) for row in rows]


@given(st.lists(NUMBERS, min_size=1, max_size=4))
def test_a_list_an_array_and_a_tensor_are_the_same(row: list[float]) -> None:
    tensors = [read_numbers(given_).ids for given_ in (row, [row], torch.tensor(row), np.array(row, dtype=np.float32))]
    assert all(torch.equal(tensor, tensors[0]) for tensor in tensors)


def test_a_mask_leaves_out_numbers() -> None:
    read = read_numbers([[1.5, 2.5], [3.5, 4.5]], attention_mask=[[0, 1], [1, 1]])
    assert read.ids.tolist() == [[0, 2.5], [3.5, 4.5]]
    assert [row.tokens for row in read.rows] == [["2.5"], ["3.5", "4.5"]]


def test_a_row_of_numbers_keeps_its_names_on_disk() -> None:
    row = read_numbers([0.25, -3.0]).rows[0]
    assert RowText.from_json(row.to_json()).tokens == row.tokens == ["0.25", "-3"]


@pytest.mark.parametrize(
    ("inputs", "error", "said"),
    [
        ("text", InputError, "reads numbers"),
        (["a", "b"], InputError, "no number"),
        ([True, False], InputError, "no number"),
        ([], EmptyInput, "empty list"),
        ([[1.0], []], EmptyInput, "row 1"),
        (torch.zeros(2, 0), EmptyInput, "no number"),
        (torch.zeros(1, 2, 3), InputError, "shape"),
        (torch.tensor([True]), InputError, "bool"),
        ([float("nan")], InputError, "finite"),
        ([[1.0, 2.0], 3.0], InputError, "no number"),
    ],
)
def test_what_holds_no_numbers_is_refused(inputs: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        read_numbers(inputs)


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(MaskMismatch):
        read_numbers([[1.0, 2.0]], attention_mask=[[1, 1, 1]])
