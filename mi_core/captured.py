"""One captured activation, with what it was captured as."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from mi_core.binding import BoundCapture
from mi_core.fingerprint import version_of
from mi_core.names import Point
from mi_core.selection import Selection
from mi_core.selectors import Selector

if TYPE_CHECKING:
    from mi_core.run import Run

__all__ = ["Before", "Captured", "captured_as"]


@dataclass(frozen=True, eq=False)
class Captured:
    """One captured activation, left-aligned, as it was selected."""

    point: Point
    selectors: Mapping[str, Selector]
    selection: Selection
    value: Tensor
    version: int
    path: Tensor | None = None
    """Under gradients: the whole tensor on the path."""

    def kept(self) -> Tensor:
        """The value with every dim of the site, those selected by an int too."""
        value, choices = self.value, self.selection.choices
        for axis, dim in enumerate(self.selection.dims):
            if dim in choices and choices[dim].drop:
                value = value.unsqueeze(axis)
        return value


def captured_as(
    bound: Mapping[str, BoundCapture], values: Mapping[str, Tensor], paths: Mapping[str, Tensor]
) -> dict[str, Captured]:
    """Captures with what they were captured as."""
    return {
        name: Captured(c.point, c.selectors, c.selection, values[name], version_of(values[name]), paths.get(name))
        for name, c in bound.items()
    }


class Before(Mapping[str, Tensor]):
    """The values before interventions."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __getitem__(self, name: str) -> Tensor:
        return self._run._out(self._run._find(name, self._run._before), "before")

    def __iter__(self) -> Iterator[str]:
        return iter(self._run._before)

    def __len__(self) -> int:
        return len(self._run._before)
