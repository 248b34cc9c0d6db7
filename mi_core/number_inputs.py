"""Inputs of models that read numbers at each position, where others read a token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.errors import EmptyInput, InputError
from mi_core.prompts import Prompts, read_prompts
from mi_core.protocols import ModelShape
from mi_core.rows import RowText
from mi_core.tokenizer import Tokenizer

__all__ = ["read_inputs", "read_numbers"]


def read_inputs(
    inputs: Any,
    shape: ModelShape,
    tokenizer: Callable[[], Tokenizer | None],
    attention_mask: Any = None,
    position_ids: Any = None,
) -> Prompts:
    """Whatever a user gives to a model of this shape: tokens, or numbers where it reads numbers."""
    if shape.numbers is not None:
        return read_numbers(inputs, shape.numbers, attention_mask=attention_mask, position_ids=position_ids)
    return read_prompts(
        inputs, tokenizer, d_vocab=shape.d_vocab, attention_mask=attention_mask, position_ids=position_ids
    )


def read_numbers(inputs: Any, width: int, *, attention_mask: Any = None, position_ids: Any = None) -> Prompts:
    """Which numbers stand at each position? ``width`` of them, where a token id stands elsewhere.

    Lists, arrays and tensors are ``[width]`` (one row of one position), ``[batch width]`` or ``[batch pos width]``.

    >>> read_numbers([0.5, -2.0], 2).rows[0].tokens
    ['0.5 -2']

    Raises:
        InputError: a text, something that holds no finite numbers, or not as many as the model reads.
        EmptyInput: no row or no position.
        MaskMismatch: a mask or positions that do not fit.
    """
    values = numbers_of(inputs, width)
    batch, columns, _ = values.shape
    count = torch.arange(columns).expand(batch, columns)
    read = read_prompts(count, None, d_vocab=columns, attention_mask=attention_mask, position_ids=position_ids)
    real = torch.ones_like(count, dtype=torch.bool) if read.mask is None else read.mask
    rows = tuple(number_row(row[kept]) for row, kept in zip(values, real, strict=True))
    return Prompts(values.masked_fill(~real[..., None], 0), read.mask, read.position_ids, rows)


def number_row(values: Float[Tensor, "pos width"]) -> RowText:
    """A row whose tokens count its positions, and are called what the numbers there are."""
    names = (" ".join(f"{value:.4g}" for value in position) for position in values.tolist())
    return RowText(tuple(range(len(values))), names=tuple(names))


def numbers_of(inputs: Any, width: int) -> Float[Tensor, "batch pos width"]:
    """The numbers, with the dims that were left out."""
    taken = f"This model reads {width} numbers at a position: give [{width}], [batch {width}] or [batch pos {width}]"
    try:
        values = inputs.detach().cpu() if isinstance(inputs, Tensor) else torch.from_numpy(np.array(inputs))
    except (TypeError, ValueError) as error:  # texts, and rows of unequal lengths
        raise InputError(f"{inputs!r} holds no numbers in equal rows. {taken}", inputs=inputs) from error
    if values.is_complex() or values.dtype == torch.bool:
        raise InputError(f"the input holds {values.dtype}. {taken}")
    if not values.numel():
        raise EmptyInput(f"the input has shape {list(values.shape)}: it holds no number. {taken}")
    if values.ndim not in (1, 2, 3) or values.shape[-1] != width:
        raise InputError(f"the input has shape {list(values.shape)}. {taken}", shape=tuple(values.shape))
    values = values if values.is_floating_point() else values.to(torch.float32)
    if not bool(values.isfinite().all()):
        raise InputError(f"the input holds {float(values[~values.isfinite()][0])}: every number must be finite")
    if values.ndim == 1:
        return values[None, None]
    return values[:, None] if values.ndim == 2 else values
