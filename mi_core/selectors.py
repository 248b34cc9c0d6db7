"""What ``.at(...)`` takes, in one canonical form: ints, slices, lists, masks and text positions.

Positions are counted on real tokens, for each row. Ints and lists must exist in every row; slices clip as in Python.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeGuard, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from mi_core.errors import SelectorError
from mi_core.prompts import RowText

__all__ = [
    "Mask",
    "Selector",
    "TextPosition",
    "canonical",
    "chosen",
    "in_text",
    "merged",
    "selector_from_json",
    "selector_to_json",
]


@runtime_checkable
class TextPosition(Protocol):
    """A selector that is resolved in each row's own text, such as ``Span``."""

    def resolve(self, row: RowText, row_number: int) -> list[int]:
        """Token indexes within the row's real tokens."""
        ...


def in_text(selector: object) -> TypeGuard[TextPosition]:
    """Whether a selector is resolved in text; the protocol itself is asked last, because it is slow.

    >>> in_text(-1)
    False
    """
    return not isinstance(selector, int | slice | tuple) and isinstance(selector, TextPosition)


class Mask(tuple[bool, ...]):
    """A bool for each entry of a dim."""

    __slots__ = ()


Selector: TypeAlias = int | slice | tuple[int, ...] | Mask | TextPosition


def canonical(dim: str, selector: Any) -> Selector:
    """A selector as immutable data.

    >>> canonical("pos", range(2, 6)), canonical("head", [0, 3])
    (slice(2, 6, 1), (0, 3))
    """
    if in_text(selector):
        return selector
    if isinstance(selector, range):
        # a slice would read negative ends from the other end
        counted = selector.start >= 0 and selector.stop >= 0
        selector = slice(selector.start, selector.stop, selector.step) if counted else list(selector)
    if isinstance(selector, Tensor | np.ndarray | np.generic):
        selector = selector.tolist()
    if isinstance(selector, slice):
        ends = (selector.start, selector.stop, selector.step)
        if not all(part is None or hasattr(part, "__index__") for part in ends):
            raise SelectorError(f"{dim}={selector!r}: a slice is made of ints.", dim=dim, selector=selector)
        start, stop, step = (part if part is None else operator.index(part) for part in ends)
        if step is not None and step < 1:
            raise SelectorError(f"{dim}={selector!r}: a slice steps forward.", dim=dim, selector=selector)
        return slice(start, stop, step)
    if isinstance(selector, bool) or selector is None:
        raise SelectorError(
            f"{dim}={selector!r} selects nothing that can be counted. Use an int, a slice, a list of ints, a list of "
            "bools, or a text position.",
            dim=dim,
            selector=selector,
        )
    if isinstance(selector, int):
        return selector
    if isinstance(selector, Sequence) and not isinstance(selector, str):
        items: list[Any] = [item.item() if isinstance(item, Tensor | np.generic) else item for item in selector]
        if items and all(isinstance(item, bool) for item in items):
            return Mask(items)
        if all(isinstance(item, int) and not isinstance(item, bool) for item in items):
            return tuple(items)
    hint = f" For a text position write Span({selector!r})." if isinstance(selector, str) else ""
    raise SelectorError(
        f"{dim}={selector!r} is no selector: use an int, a slice, a list of ints, a list of bools, or a text "
        f"position such as Span, Token or Turn.{hint}",
        dim=dim,
        selector=selector,
    )


def chosen(selector: Selector, size: int, *, dim: str, where: str) -> list[int]:
    """The indexes that a selector stands for among ``size`` entries; empty only for slices and masks."""
    if isinstance(selector, slice):
        return list(range(*selector.indices(size)))
    if isinstance(selector, Mask):
        if len(selector) != size:
            raise SelectorError(
                f"the mask for {dim!r} has {len(selector)} entries, {where} has {size}.", dim=dim, size=size
            )
        return [index for index, wanted in enumerate(selector) if wanted]
    wanted = (selector,) if isinstance(selector, int) else selector
    assert isinstance(wanted, tuple)
    for index in wanted:
        if not -size <= index < size:
            raise SelectorError(
                f"{dim}={index} is out of range: {where} has {size} ({-size} to {size - 1}).",
                dim=dim,
                index=index,
                size=size,
            )
    return [index % size for index in wanted]


def merged(old: Mapping[str, Selector], new: Mapping[str, Any]) -> dict[str, Selector]:
    """``old`` narrowed by ``new``; a dim can be narrowed once."""
    result = dict(old)
    for dim, selector in new.items():
        if dim in result:
            raise SelectorError(
                f"{dim!r} is already selected ({result[dim]!r}); write one .at({dim}=...) with the whole selection.",
                dim=dim,
            )
        result[dim] = canonical(dim, selector)
    return result


def selector_to_json(selector: Selector) -> Any:
    """A selector as JSON."""
    if isinstance(selector, slice):
        return {"slice": [selector.start, selector.stop, selector.step]}
    if isinstance(selector, Mask):
        return {"mask": [int(item) for item in selector]}
    if in_text(selector):
        to_json = getattr(selector, "to_json", None)
        if to_json is None:
            raise SelectorError(f"{selector!r} cannot be saved: it has no to_json().", selector=selector)
        return {"text": to_json()}
    return list(selector) if isinstance(selector, tuple) else selector


def selector_from_json(data: Any) -> Selector:
    """The inverse of :func:`selector_to_json`.

    >>> selector_from_json(selector_to_json(slice(-3, None)))
    slice(-3, None, None)
    """
    if isinstance(data, dict) and "slice" in data:
        return slice(*data["slice"])
    if isinstance(data, dict) and "mask" in data:
        return Mask(bool(item) for item in data["mask"])
    if isinstance(data, dict):
        from mi_core.positions import position_from_json

        return position_from_json(data["text"])
    return tuple(data) if isinstance(data, list) else int(data)


def as_index(values: Sequence[int], device: torch.device) -> Tensor:
    """A list of indexes as a tensor."""
    return torch.tensor(list(values), dtype=torch.long, device=device)
