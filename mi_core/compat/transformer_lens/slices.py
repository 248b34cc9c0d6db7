"""Slices as TransformerLens takes them: an int drops the dim, a tuple is a slice, a list picks, None keeps all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["SliceInput", "sliced", "to_numpy"]

SliceInput: TypeAlias = "int | slice | tuple[int | None, ...] | Sequence[int] | Tensor | npt.NDArray[Any] | None"


def sliced(tensor: Tensor, wanted: Any, dim: int) -> Tensor:
    """A part of a tensor along one dim.

    >>> x = torch.arange(6).reshape(2, 3)
    >>> sliced(x, -1, 1).tolist(), sliced(x, (1, None), 1).tolist(), sliced(x, [0, 2], 1).tolist()
    ([2, 5], [[1, 2], [4, 5]], [[0, 2], [3, 5]])
    """
    if wanted is None:
        return tensor
    index = slice(*wanted) if isinstance(wanted, tuple) else wanted
    if not isinstance(index, int | slice):
        index = torch.as_tensor(index, device=tensor.device)
    places: list[Any] = [slice(None)] * tensor.ndim
    places[dim] = index
    return tensor[tuple(places)]


def to_numpy(values: Any) -> npt.NDArray[Any]:
    """Whatever is given as an array of numpy; bfloat16, which numpy lacks, as float32.

    >>> to_numpy(torch.ones(2, requires_grad=True))
    array([1., 1.], dtype=float32)
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return np.asarray(values.float() if values.dtype == torch.bfloat16 else values)
    return np.asarray(values)
