"""Memories in tensors that stay where they are: what one graph goes on from, column after column.

A memory takes part that has ``with_room(positions)``: the same memory with room for so many positions, or itself where
it does not grow. Calls with `Batch.room` go on from it as it is, without `cut`, and write the new column in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from mi_core.memory_files import restored
from mi_core.protocols import Memory
from mi_core.tracing import NotAGraph

__all__ = ["Buffers", "Roomy", "room_for", "with_room"]

FINEST = 64
"""Rooms are multiples of this, so that generations of about the same length share a graph."""


@runtime_checkable
class Roomy(Memory, Protocol):
    """A block's memory that a graph can go on from."""

    def with_room(self, positions: int) -> Memory:
        """The same with room for so many positions, in tensors whose sizes depend on nothing else; or itself."""
        ...


def with_room(memory: Memory, positions: int) -> Memory:
    """The memory with room for so many positions; itself where it does not grow.

    Raises:
        NotAGraph: it does not say how.
    """
    if isinstance(memory, Roomy):
        return memory.with_room(positions)
    if memory.tensors():
        raise NotAGraph(f"a layer remembers in a {type(memory).__name__}, which has no with_room(positions)")
    return memory


def room_for(positions: int) -> int:
    """So many positions, rounded up to a multiple of 64, or of an eighth of the power of two that they lie below.

    >>> [room_for(n) for n in (1, 64, 65, 500, 1000, 5000)]
    [64, 64, 128, 512, 1024, 5120]
    """
    step = max(FINEST, 1 << max(0, (positions - 1).bit_length() - 3))
    return -(-positions // step) * step


class Buffers:
    """The memories of all layers, in tensors of their own that are written in place."""

    def __init__(self, layers: Sequence[Memory], room: int) -> None:
        self.room = room
        fitted = [with_room(layer, room) for layer in layers]
        self.layers: tuple[Memory, ...] = tuple(
            restored(layer, {name: tensor.clone() for name, tensor in layer.tensors().items()}) for layer in fitted
        )

    @property
    def tensors(self) -> list[Tensor]:
        """All of them."""
        return [tensor for layer in self.layers for tensor in layer.tensors().values()]

    def load(self, layers: Sequence[Memory]) -> bool:
        """Take over what is remembered; False, and nothing is taken, where it does not fit."""
        pairs: list[tuple[Tensor, Tensor]] = []
        for own, layer in zip(self.layers, layers, strict=True):
            held, given = own.tensors(), with_room(layer, self.room).tensors()
            if type(own) is not type(layer) or held.keys() != given.keys():
                return False
            pairs += [(tensor, given[name]) for name, tensor in held.items()]
        if any(old.shape != new.shape or old.dtype != new.dtype for old, new in pairs):
            return False
        for old, new in pairs:
            old.copy_(new)
        return True

    def keep(self, layers: Sequence[Memory]) -> None:
        """Go on from what a call left: what it did not write in place is written now.

        Raises:
            NotAGraph: it left something else than it went on from.
        """
        for own, layer in zip(self.layers, layers, strict=True):
            held, left = own.tensors(), layer.tensors()
            if {name: t.shape for name, t in held.items()} != {name: t.shape for name, t in left.items()}:
                raise NotAGraph(f"what a layer remembers in a {type(own).__name__} changes its size")
            for name, tensor in held.items():
                if left[name] is not tensor:
                    tensor.copy_(left[name])
