"""Where values may come from besides numbers and tensors: a run, or what a saved spec kept of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeGuard, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from mi_core.errors import ValueMismatch
from mi_core.fingerprint import fingerprint
from mi_core.names import Point
from mi_core.selection import own_dims
from mi_core.selectors import Selector

__all__ = ["Recorded", "Source", "Value", "is_source"]


@runtime_checkable
class Source(Protocol):
    """Something that has values at points: "the same point, the same selection, of that run"."""

    def values_at(
        self, point: Point, selectors: Mapping[str, Selector]
    ) -> tuple[Tensor, Mapping[str, Int[Tensor, "batch"]]]:
        """The selected entries, left-aligned with every dim kept, and each row's real ones along position dims."""
        ...


def is_source(value: object) -> TypeGuard[Source]:
    """Whether a value is a source; a protocol's own check is slow, so each type is asked once.

    >>> is_source(1.0)
    False
    """
    kind = type(value)
    if kind not in GIVES_VALUES:
        GIVES_VALUES[kind] = isinstance(value, Source)
    return GIVES_VALUES[kind]


GIVES_VALUES: dict[type, bool] = {}
"""Whether values of a type are sources."""


Value: TypeAlias = Any
"""A number, a tensor, or a :class:`Source` such as a run; anything else is refused when it enters a spec."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """What a saved spec took from a run: for each point the selected values and how many of them are real."""

    values: Mapping[str, Tensor]
    counts: Mapping[str, Mapping[str, Tensor]]
    selectors: Mapping[str, Selector]
    provenance: Mapping[str, Any]

    def values_at(
        self, point: Point, selectors: Mapping[str, Selector]
    ) -> tuple[Tensor, Mapping[str, Int[Tensor, "batch"]]]:
        """See :class:`Source`.

        Raises:
            ValueMismatch: another point or selection than was saved.
        """
        if point.name not in self.values:
            raise ValueMismatch(
                f"the saved spec holds no value for {point.name!r}; it holds {sorted(self.values)}.", point=point.name
            )
        if fingerprint(dict(selectors)) != fingerprint(own_dims(self.selectors, point)):
            raise ValueMismatch(
                f"the saved spec holds {point.name!r} at {dict(self.selectors)}, not at {dict(selectors)}: narrow a "
                "spec before it is saved.",
                point=point.name,
            )
        return self.values[point.name], self.counts[point.name]

    def __repr__(self) -> str:
        return f"<{len(self.values)} recorded activation(s) of {self.provenance.get('model')!r}>"
