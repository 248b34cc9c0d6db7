from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_core.fingerprint import fingerprint, tensors_in, version_of
from mi_core.interventions import Add
from mi_core.selectors import Mask

PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3))
NESTED = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
)


@given(NESTED)
def test_equal_structure_is_equal_and_hashable(value: Any) -> None:
    import copy

    assert fingerprint(value) == fingerprint(copy.deepcopy(value))
    hash(fingerprint(value))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(2), torch.zeros(1, 2)),
        (torch.zeros(1), -torch.zeros(1)),
        (0.0, -0.0),
        ((1, 2), [1, 2]),
        ((True,), Mask([True])),
        (1, True),
        (1, 1.0),
        ({"a": 1}, {"a": 2}),
        (slice(1), slice(1, None)),
        (lambda x: x, lambda x: x),
        (Add(1.0), Add(1.0, scale=2.0)),
    ],
)
def test_what_differs_is_told_apart(one: Any, other: Any) -> None:
    assert fingerprint(one) == fingerprint(one)
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int64])
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_tensors_are_their_bytes(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.ones(shape, dtype=dtype)
    assert fingerprint(tensor) == fingerprint(tensor.clone())
    assert fingerprint(tensor.T if tensor.ndim == 2 else tensor) == fingerprint(
        tensor.T.contiguous() if tensor.ndim == 2 else tensor
    )


def test_tensors_are_found_in_nested_data_and_their_versions_move() -> None:
    one, other = torch.zeros(2), torch.zeros(3)
    assert list(tensors_in({"a": [one], "b": Add(other)})) == [one, other]
    before = version_of(one)
    one.add_(1)
    assert version_of(one) == before + 1
    with torch.inference_mode():
        assert version_of(torch.zeros(1)) == -1
