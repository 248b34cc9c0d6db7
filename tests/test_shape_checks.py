"""The suite runs the packages with their shapes checked: these tests fail where it does not."""

from __future__ import annotations

import os

import pytest
import shape_checks
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float
from torch import Tensor

from mi_core.memory import after_position
from mi_core.tokens import TopTokens

checked = pytest.mark.skipif(bool(os.environ.get("MI_NO_SHAPE_CHECKS")), reason="MI_NO_SHAPE_CHECKS is set")


@checked
def test_a_wrong_number_of_dims_is_refused() -> None:
    with pytest.raises(BeartypeCallHintViolation, match="length"):
        after_position(torch.ones(2, 2, dtype=torch.int64), torch.ones(2, dtype=torch.int64), 0)


@checked
def test_sizes_of_one_name_must_agree_within_a_call() -> None:
    with pytest.raises(BeartypeCallHintViolation, match="start"):
        after_position(torch.ones(2, dtype=torch.int64), torch.ones(3, dtype=torch.int64), 0)


@checked
def test_a_dataclass_is_checked_as_it_is_made() -> None:
    with pytest.raises(BeartypeCallHintViolation, match="probability"):
        TopTokens(torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 4), ())


def test_what_a_function_returns_is_checked() -> None:
    with pytest.raises(BeartypeCallHintViolation, match="return"):
        shape_checks.checked(drop_a_dim)(torch.ones(2, 3))


def drop_a_dim(x: Float[Tensor, "batch pos"]) -> Float[Tensor, "batch pos"]:
    return x[0]


@checked
def test_every_call_has_sizes_of_its_own() -> None:
    for batch in (2, 3):
        assert (
            len(after_position(torch.ones(batch, dtype=torch.int64), torch.ones(batch, dtype=torch.int64), 0)) == batch
        )


def test_a_function_without_shapes_runs_as_it_is() -> None:
    assert shape_checks.checked(has_no_shape) is has_no_shape


def has_no_shape(x: Tensor, count: int) -> Tensor:
    return x


def test_what_is_declared_passes() -> None:
    two = torch.tensor([2, 3])
    assert after_position(two, torch.zeros_like(two), -1).tolist() == [2, 3]
