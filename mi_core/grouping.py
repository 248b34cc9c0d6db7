"""Which cells of a sweep run together: packs that fit the memory, like starts side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mi_core.packing import Variant, takes_parts
from mi_core.trunk import Trunk

__all__ = ["groups_of"]

GROUPED_COLUMNS = 8
"""Into how many groups, at least, the columns of a prompt fall where calls are rectangles; a group starts together."""
WAVES = 4
"""How many calls of a block the streams of one pack may fill."""


def groups_of(variants: Sequence[Variant], trunk: Trunk, tokens: int) -> Iterator[list[int]]:
    """Variants in packs whose streams, which are held between layers, fit the budget; like starts side by side.

    A variant that holds functions is a pack of its own.
    """
    mixed = takes_parts(trunk)
    if not mixed:
        # rows of one call are equally wide there, and calls should have many: neighbours start together
        step = max(1, min(GROUPED_COLUMNS, trunk.layout.width // GROUPED_COLUMNS))
        for variant in variants:
            variant.fork = variant.fork.lowered(step)
    starts = [tuple(variant.fork.first.tolist()) for variant in variants]
    alone = [variant.binding.holds_functions for variant in variants]
    group: list[int] = []
    filled = 0
    for index in sorted(range(len(variants)), key=lambda index: (alone[index], starts[index])):
        own = len(starts[index]) * int((trunk.layout.length - variants[index].fork.first).max())
        other_start = not (mixed or (group and starts[index] == starts[group[0]]))
        if group and (alone[index] or filled + own > WAVES * tokens or other_start):
            yield group
            group, filled = [], 0
        group.append(index)
        filled += own
    if group:
        yield group
