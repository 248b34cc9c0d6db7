"""Inputs of models that read a number at each position, where others read a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.errors import EmptyInput, InputError
from mi_core.prompts import Prompts, read_prompts
from mi_core.rows import RowText

__all__ = ["read_numbers"]

TAKEN = "This model reads numbers: give a list of them, a list of lists, or a tensor [pos] or [batch pos]"


def read_numbers(inputs: Any, *, attention_mask: Any = None, position_ids: Any = None) -> Prompts:
    """Rows of numbers, as a batch: each row's numbers stand where token ids stand elsewhere.

    >>> read_numbers([[0.5, -2.0], [1.0]]).rows[1].tokens
    ['1']

    Raises:
        InputError: a text, or something else that holds no finite numbers.
        EmptyInput: no row, or one without a number.
        MaskMismatch: a mask or positions that do not fit the numbers.
    """
    values, lengths = rectangle(inputs)
    if not bool(values.isfinite().all()):
        raise InputError(f"the input holds {float(values[~values.isfinite()][0])}: every number must be finite")
    width = values.shape[1]
    # masks and positions are read as they are of tokens; rows of unequal lengths come as lists there too
    columns: Any = torch.arange(width).expand(len(values), width)
    if len(set(lengths)) > 1:
        columns = [list(range(length)) for length in lengths]
    read = read_prompts(columns, None, d_vocab=max(width, 1), attention_mask=attention_mask, position_ids=position_ids)
    real = torch.ones_like(values, dtype=torch.bool) if read.mask is None else read.mask
    rows = tuple(number_row(row[kept]) for row, kept in zip(values, real, strict=True))
    return Prompts(values.masked_fill(~real, 0), read.mask, read.position_ids, rows)


def number_row(values: Float[Tensor, "pos"]) -> RowText:
    """A row whose tokens are numbers: they count its columns, and are called what the numbers are."""
    return RowText(tuple(range(len(values))), names=tuple(f"{value:.4g}" for value in values.tolist()))


def rectangle(inputs: Any) -> tuple[Float[Tensor, "batch column"], list[int]]:
    """The numbers, zeros behind the rows that are shorter, and how many each row has."""
    if isinstance(inputs, Tensor | np.ndarray):
        values = floats(inputs)
        if values.ndim not in (1, 2):
            raise InputError(f"the input has shape {tuple(values.shape)}. {TAKEN}")
        values = values[None] if values.ndim == 1 else values
        if not values.numel():
            raise EmptyInput(f"the input has shape {tuple(values.shape)}: it holds no number")
        return values, [values.shape[1]] * len(values)
    if not isinstance(inputs, list | tuple):
        raise InputError(f"{inputs!r} ({type(inputs).__name__}) holds no numbers. {TAKEN}")
    if not inputs:
        raise EmptyInput(f"an empty list holds no number. {TAKEN}")
    nested = [isinstance(each, list | tuple | Tensor | np.ndarray) for each in inputs]
    rows = [row_of(each) for each in inputs] if all(nested) else [row_of(inputs)]
    for number, row in enumerate(rows):
        if not len(row):
            raise EmptyInput(f"row {number} of the input has no number", row=number)
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), [len(row) for row in rows]


def row_of(row: Sequence[Any] | Tensor | Any) -> Float[Tensor, "pos"]:
    """One row of numbers."""
    if isinstance(row, Tensor | np.ndarray):
        values = floats(row)
        if values.ndim != 1:
            raise InputError(f"a row of the input has shape {tuple(values.shape)}, not [pos]. {TAKEN}")
        return values
    if any(isinstance(value, bool | str) for value in row):
        raise InputError(f"{row!r} holds something that is no number. {TAKEN}")
    try:
        return torch.tensor([float(value) for value in row])
    except (TypeError, ValueError) as error:
        raise InputError(f"{row!r} holds something that is no number: {error}. {TAKEN}") from error


def floats(values: Tensor | Any) -> Float[Tensor, "..."]:
    """A tensor or an array as floating-point numbers on the CPU."""
    tensor = values.detach().cpu() if isinstance(values, Tensor) else torch.from_numpy(np.ascontiguousarray(values))
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise InputError(f"the input is a {tensor.dtype} tensor. {TAKEN}")
    return tensor if tensor.is_floating_point() else tensor.to(torch.float32)
