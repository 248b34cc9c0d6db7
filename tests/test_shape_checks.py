"""The suite runs the packages with their shapes checked: these tests fail where it does not."""

from __future__ import annotations

import os

import pytest
import torch
from jaxtyping import TypeCheckError

from mi_core.memory import after_position

checked = pytest.mark.skipif(bool(os.environ.get("MI_NO_SHAPE_CHECKS")), reason="MI_NO_SHAPE_CHECKS is set")


@checked
def test_a_wrong_number_of_dims_is_refused() -> None:
    with pytest.raises(TypeCheckError, match="length"):
        after_position(torch.ones(2, 2, dtype=torch.int64), torch.ones(2, dtype=torch.int64), 0)


@checked
def test_sizes_of_one_name_must_agree_within_a_call() -> None:
    with pytest.raises(TypeCheckError, match="start"):
        after_position(torch.ones(2, dtype=torch.int64), torch.ones(3, dtype=torch.int64), 0)


def test_what_is_declared_passes() -> None:
    two = torch.tensor([2, 3])
    assert after_position(two, torch.zeros_like(two), -1).tolist() == [2, 3]
