"""Selecting by what entries hold: ``.at(expert=17)`` where a dim has slots, and another site tells whose each is.

Which slots are meant is known once that site has fired. Until then a selection covers all of them; the entries of
others are then left as they are by a write, and read as zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from mi_core.editing import Intervention
from mi_core.errors import SelectorError
from mi_core.names import Point
from mi_core.selection import Selection, told_by
from mi_core.selectors import Selector, TextPosition, chosen
from mi_core.sources import is_source
from mi_core.vocabulary import TOLD_DIMS

__all__ = ["Meant", "Teller", "check_told", "wanted_at"]


Wanted = Mapping[int, tuple[int, ...]]
"""The entries that are meant, by the axis of the slots that hold them."""


@dataclass(eq=False)
class Teller:
    """What one site of a layer tells in a call, for those that ask behind it."""

    said: Tensor | None = None

    def hear(self, value: Tensor) -> None:
        """Remember what the site gave."""
        self.said = value

    def meant(self, wanted: Wanted, value: Tensor) -> Bool[Tensor, "..."]:
        """Which entries of a value are meant, broadcastable to it."""
        assert self.said is not None  # it fires before the sites that it tells about
        ((axis, entries),) = wanted.items()
        here = torch.isin(self.said, torch.tensor(entries, device=self.said.device))
        return here.reshape(*here.shape, *[1] * (value.ndim - axis - 1))

    def only(self, act: Callable[[Tensor], Tensor], wanted: Wanted) -> Callable[[Tensor], Tensor]:
        """``act`` where it is meant; other entries stay as they are."""
        return lambda value: torch.where(self.meant(wanted, value), act(value).to(value.dtype), value)


@dataclass(frozen=True, eq=False)
class Meant:
    """A selection that reads zeros where something else is meant."""

    selection: Selection
    teller: Teller
    wanted: Wanted

    def read(self, value: Tensor) -> Tensor:
        """The selected entries."""
        return self.selection.read(value.masked_fill(~self.teller.meant(self.wanted, value), 0))


def wanted_at(selectors: Mapping[str, Selector], point: Point) -> Wanted:
    """What selectors mean at a point; empty if they select by no dim that another site tells."""
    found = {}
    for dim, selector in selectors.items():
        if told_by(dim, point.site) is not None:
            assert not isinstance(selector, TextPosition)  # refused where selectors are resolved
            index = chosen(selector, point.site.sizes[dim], dim=dim, where=point.name)
            found[point.site.dims.index(TOLD_DIMS[dim][0])] = tuple(index)
    return found


def check_told(edit: Intervention, point: Point) -> None:
    """Refuse what needs to know beforehand which entries it reaches.

    Raises:
        SelectorError: values of a run or of other rows, whose slots may hold something else.
    """
    if not wanted_at(edit.selectors, point):
        return
    if type(edit).sources or edit.needs_all_rows or any(is_source(getattr(edit, name)) for name in edit.fitted):
        dims = " and ".join(repr(dim) for dim in edit.selectors if told_by(dim, point.site) is not None)
        raise SelectorError(
            f"{edit!r} takes values from elsewhere, where the slots of {point.name!r} may hold others: select by slot, "
            f"or give numbers or tensors where you select by {dims}.",
            point=point.name,
        )
