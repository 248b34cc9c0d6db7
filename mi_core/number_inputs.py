"""Inputs of models that read numbers at each position, where others read a token."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
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
    if attention_mask is None and position_ids is None:
        return Prompts(values, None, None, rows_of(values, [columns] * batch))
    count = torch.arange(columns).expand(batch, columns)
    read = read_prompts(count, None, d_vocab=columns, attention_mask=attention_mask, position_ids=position_ids)
    if read.mask is None:
        return Prompts(values, None, read.position_ids, rows_of(values, [columns] * batch))
    rows = rows_of(values[read.mask], read.mask.sum(1).tolist())
    return Prompts(values.masked_fill(~read.mask[..., None], 0), read.mask, read.position_ids, rows)


@dataclass(frozen=True)
class NumberRow(RowText):
    """A row of numbers: its ids count its positions, its tokens are what the numbers there are."""

    numbers: tuple[tuple[float, ...], ...] = ()

    @cached_property
    def tokens(self) -> list[str]:
        """The numbers at each position, as text."""
        return [" ".join(f"{value:.4g}" for value in position) for position in self.numbers]

    def to_json(self) -> dict[str, Any]:
        """Positions, and what they are called."""
        return {"ids": list(self.ids), "tokens": self.tokens}


def rows_of(values: Float[Tensor, "*positions width"], lengths: list[int]) -> tuple[RowText, ...]:
    """The rows of numbers that lie one behind the other."""
    positions = [tuple(numbers) for numbers in values.flatten(0, -2).tolist()]
    counted = {length: tuple(range(length)) for length in set(lengths)}
    stops = itertools.accumulate(lengths)
    return tuple(
        NumberRow(counted[length], numbers=tuple(positions[stop - length : stop]))
        for stop, length in zip(stops, lengths, strict=True)
    )


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
