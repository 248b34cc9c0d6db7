"""Whatever a user gives as an input, as ids, mask and rows of text."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from mi_core.chat import Chat
from mi_core.errors import EmptyInput, InputError, MaskMismatch, TokenOutOfRange
from mi_core.rows import RowText, reader_of
from mi_core.tokenizer import RendersChats, Tokenizer

__all__ = ["Prompts", "RowText", "read_prompts"]

TAKEN = (
    "Inputs are a text, a mi.Chat, a list of either, ids as a list of ints, a list of lists of ints,"
    " or an integer tensor [pos] or [batch pos]"
)
LARGEST = 2**63 - 1


@dataclass(frozen=True, eq=False)
class Prompts:
    """A batch of prompts in the layout that the user gave."""

    ids: Shaped[Tensor, "batch column *numbers"]
    """Token ids, or numbers where the model reads numbers. Pads hold 0."""
    mask: Bool[Tensor, "batch column"] | None
    """True at real tokens; None where every column is real."""
    position_ids: Int[Tensor, "batch column"] | None
    """Positions that the user set; pads hold 0."""
    rows: tuple[RowText, ...]


def read_prompts(
    inputs: Any,
    tokenizer: Tokenizer | Callable[[], Tokenizer | None] | None,
    *,
    d_vocab: int,
    attention_mask: Any = None,
    position_ids: Any = None,
) -> Prompts:
    """What did the user give: which tokens, which of them real, at which positions?

    A mask is never guessed from pad ids. ``tokenizer`` may be a function that returns it, called only for text.

    Raises:
        InputError: something that is no prompt.
        EmptyInput: no prompt, or one without a real token.
        TokenOutOfRange: a real token that the model's vocabulary lacks.
        MaskMismatch: a mask or positions that do not fit the tokens.
        NoTokenizer: text, and no tokenizer.
        ChatTemplateError: the chat template is absent or refuses the messages.
    """
    texts = _texts(inputs)
    if texts is not None:
        if attention_mask is not None:
            raise MaskMismatch(
                "attention_mask was given with text: a text's mask follows from its own length. Leave it out, or give"
                " the ids and their mask"
            )
        rows = [_encode(text, tokenizer, number) for number, text in enumerate(texts)]
        ids, mask = _pad([row.ids for row in rows])
    else:
        ids, mask = _ids(inputs)
        if attention_mask is not None:
            mask = _mask(attention_mask, ids, mask)
        rows = []
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    _check(ids, real, rows, d_vocab)
    ids = ids.masked_fill(~real, 0)
    positions = None if position_ids is None else _positions(position_ids, ids, real)
    if not rows:
        rows = [RowText(tuple(row[kept].tolist()), tokenizer=tokenizer) for row, kept in zip(ids, real, strict=True)]
    return Prompts(ids, None if bool(real.all()) else real, positions, tuple(rows))


def _texts(inputs: Any) -> list[str | Chat] | None:
    """The prompts, if they are texts."""
    if isinstance(inputs, str | Chat):
        return [inputs]
    if not isinstance(inputs, list | tuple):
        return None
    if not inputs:
        raise EmptyInput(f"an empty list holds no prompt. {TAKEN}")
    if isinstance(inputs[0], dict):
        raise InputError(f"a list of dicts is no prompt; for a conversation give mi.Chat([...]). {TAKEN}")
    kinds = [isinstance(each, str | Chat) for each in inputs]
    if not any(kinds):
        return None
    if not all(kinds):
        other = inputs[kinds.index(False)]
        raise InputError(f"prompt {kinds.index(False)} is {_named(other)}, the others are texts. {TAKEN}")
    return list(inputs)


def _encode(text: str | Chat, tokenizer: Tokenizer | Callable[[], Tokenizer | None] | None, number: int) -> RowText:
    reader = reader_of(tokenizer)
    if isinstance(text, str):
        encoding = reader.encode(text)
        row = RowText(encoding.ids, (text, encoding.offsets), encoding.special, tokenizer=reader)
    elif isinstance(reader, RendersChats):
        rendered = reader.render(text.messages, text.add_generation_prompt, **text.template)
        encoding = reader.encode(rendered, special=False)  # the template writes its own BOS
        row = RowText(encoding.ids, (rendered, encoding.offsets), encoding.special, text, reader)
    else:
        ids = tuple(reader.chat(text.messages, text.add_generation_prompt, **text.template))
        row = RowText(ids, chat=text, tokenizer=reader)
    if not row.ids:
        raise EmptyInput(f"prompt {number}, {text!r}, has no token at all; give a text that has one", row=number)
    return row


def _pad(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
    """Rows as a rectangle, padded on the right, and its mask."""
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row, dtype=torch.long)
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(width) < lengths[:, None]
    return ids, None if bool(mask.all()) else mask


def _ids(inputs: Any) -> tuple[Tensor, Tensor | None]:
    """Ids as ``[batch column]``, and the mask that follows from unequal lengths."""
    if isinstance(inputs, Tensor | np.ndarray):
        ids = _integers(inputs, "the input")
        if ids.ndim not in (1, 2):
            raise InputError(f"the input has shape {tuple(ids.shape)}, with {ids.ndim} dimensions. {TAKEN}")
        if ids.shape[0] == 0:
            raise EmptyInput(f"the input has shape {tuple(ids.shape)}: it holds no prompt")
        return (ids[None] if ids.ndim == 1 else ids), None
    if not isinstance(inputs, list | tuple):
        raise InputError(f"{_named(inputs)} is no prompt. {TAKEN}")
    if all(_is_int(each) for each in inputs):
        return _pad([_row(inputs, 0)])
    rows = [_row(each, number) for number, each in enumerate(inputs)]
    for number, row in enumerate(rows):
        if not row:
            raise EmptyInput(f"row {number} of the input has no token", row=number)
    return _pad(rows)


def _row(row: Any, number: int) -> list[int]:
    if isinstance(row, Tensor | np.ndarray):
        ids = _integers(row, f"row {number} of the input")
        if ids.ndim != 1:
            raise InputError(f"row {number} of the input has shape {tuple(ids.shape)}, not [pos]. {TAKEN}")
        return [int(token) for token in ids.tolist()]
    if not isinstance(row, list | tuple):
        raise InputError(f"row {number} of the input is {_named(row)}. {TAKEN}")
    for column, token in enumerate(row):
        if not _is_int(token):
            raise InputError(f"row {number}, column {column} is {_named(token)}, not a token id. {TAKEN}")
        if not -LARGEST <= operator.index(token) <= LARGEST:
            raise TokenOutOfRange(
                f"row {number}, column {column} holds token {token}: no vocabulary is that large",
                id=token,
                row=number,
                column=column,
            )
    return [operator.index(token) for token in row]


def _is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _integers(values: Tensor | npt.NDArray[np.generic], what: str) -> Tensor:
    """The array as int64 on the CPU, if it holds integers."""
    tensor = _tensor(values, what)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise InputError(f"{what} is a {tensor.dtype} tensor of shape {tuple(tensor.shape)}, not of integers. {TAKEN}")
    return tensor.to("cpu", torch.long)


def _tensor(values: Tensor | npt.NDArray[np.generic], what: str) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach()
    if values.dtype.kind not in "biuf":
        raise InputError(f"{what} is an array of {values.dtype}, not of integers. {TAKEN}")
    return torch.from_numpy(np.array(values, dtype=values.dtype.newbyteorder("=")))  # a copy: theirs may be read-only


def _rectangle(values: Any, ids: Tensor, mask: Tensor | None, what: str) -> Tensor:
    """A mask or positions, given as a tensor or as lists (of unequal lengths where the ids were), in the ids' shape."""
    if isinstance(values, np.ndarray):
        values = _tensor(values, what)
    if not isinstance(values, Tensor):
        if not isinstance(values, list | tuple) or not values:
            raise MaskMismatch(f"{what} is {_named(values)}; give a tensor or lists of shape {tuple(ids.shape)}")
        rows = values if isinstance(values[0], list | tuple | Tensor | np.ndarray) else [values]
        lengths = [ids.shape[1]] * len(ids) if mask is None else mask.sum(1).tolist()
        try:
            numbers = [[operator.index(value) for value in row] for row in rows]
        except TypeError as error:
            raise MaskMismatch(f"{what} holds something that is no integer: {error}", what=what) from error
        if [len(row) for row in numbers] == lengths:
            values, _ = _pad(numbers)
        elif len({len(row) for row in numbers}) == 1:
            values = torch.tensor(numbers)
        else:
            raise MaskMismatch(
                f"{what} has rows of lengths {[len(row) for row in numbers]}, the input's rows have {lengths}",
                what=what,
            )
    tensor: Tensor = values.detach().to("cpu")
    if tensor.ndim == 1:
        tensor = tensor[None]
    return tensor


def _mask(attention_mask: Any, ids: Tensor, lengths: Tensor | None) -> Tensor:
    given = _rectangle(attention_mask, ids, lengths, "attention_mask")
    if given.shape != ids.shape:
        raise MaskMismatch(
            f"attention_mask has shape {tuple(given.shape)}, the tokens have {tuple(ids.shape)}",
            mask=tuple(given.shape),
            ids=tuple(ids.shape),
        )
    other = given[(given != 0) & (given != 1)]
    if other.numel():
        raise MaskMismatch(
            f"attention_mask holds {other[0].item()!r}; it is 1 at tokens that are real and 0 at pads (a mask of zeros"
            " and -inf is not one of these)",
            value=other[0].item(),
        )
    mask = given.bool()
    if lengths is not None and bool((mask & ~lengths).any()):
        row = int((mask & ~lengths).any(1).nonzero()[0])
        raise MaskMismatch(f"attention_mask calls columns real that lie behind the end of row {row}", row=row)
    return mask


def _positions(position_ids: Any, ids: Tensor, real: Tensor) -> Tensor:
    given = _rectangle(position_ids, ids, None if bool(real.all()) else real, "position_ids")
    if given.is_floating_point() or given.dtype == torch.bool:
        raise MaskMismatch(f"position_ids are {given.dtype}, not integers")
    if given.shape[0] == 1 and given.shape[1] == ids.shape[1]:
        given = given.expand_as(ids)
    if given.shape != ids.shape:
        raise MaskMismatch(
            f"position_ids have shape {tuple(given.shape)}, the tokens have {tuple(ids.shape)}",
            position_ids=tuple(given.shape),
            ids=tuple(ids.shape),
        )
    given = given.long().masked_fill(~real, 0)
    if bool((given < 0).any()):
        row, column = (given < 0).nonzero()[0].tolist()
        raise MaskMismatch(f"position_ids hold {int(given[row, column])} in row {row}, column {column}", row=row)
    return given


def _check(ids: Tensor, real: Tensor, rows: Sequence[RowText], d_vocab: int) -> None:
    empty = ~real.any(1)
    if bool(empty.any()):
        row = int(empty.nonzero()[0])
        why = "its mask is zero everywhere" if ids.shape[1] else f"the input has shape {tuple(ids.shape)}"
        raise EmptyInput(f"row {row} of the input has no real token: {why}", row=row)
    outside = real & ((ids < 0) | (ids >= d_vocab))
    if bool(outside.any()):
        row, column = outside.nonzero()[0].tolist()
        token = int(ids[row, column])
        said = f" ({rows[row].tokens[column]!r}: the tokenizer has more tokens than the model)" if rows else ""
        raise TokenOutOfRange(
            f"row {row}, column {column} holds token {token}{said}; the vocabulary has {d_vocab},"
            f" from 0 to {d_vocab - 1}",
            id=token,
            row=row,
            column=column,
            d_vocab=d_vocab,
        )


def _named(value: Any) -> str:
    said = repr(value)
    return f"{said if len(said) <= 60 else said[:57] + '...'} ({type(value).__name__})"
