"""What a resumable run keeps, so that other runs go on from it: streams and memory, and what was done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from mi_core.binding import Binding
from mi_core.errors import ChangedInPlace
from mi_core.fingerprint import version_of
from mi_core.layout import Layout
from mi_core.memory import ModelMemory
from mi_core.protocols import Backend, Memory, Stream

__all__ = ["Trunk", "columns_behind"]


@dataclass(frozen=True, eq=False)
class Trunk:
    """A finished run as others see it that fork from it."""

    backend: Backend
    binding: Binding
    streams: Sequence[Stream]
    """The stream before each layer (before ``hook_resid_pre``), and behind the last."""
    memory: ModelMemory
    versions: tuple[int, ...] = ()
    """How often each stream had been changed in place when the run ended."""

    @classmethod
    def growing(cls, backend: Backend, binding: Binding, streams: list[Stream], memories: list[Memory]) -> Trunk:
        """That of a run on its way, which adds streams and memories layer by layer."""
        length = binding.layout.start + binding.layout.length
        return cls(backend, binding, streams, ModelMemory(memories, length, binding.points.model, backend))

    def ended(self) -> Trunk:
        """The same when the run is over."""
        return replace(
            self,
            streams=tuple(self.streams),
            memory=replace(self.memory, layers=tuple(self.memory.layers)),
            versions=tuple(version_of(stream.resid) for stream in self.streams),
        )

    @property
    def layout(self) -> Layout:
        """The rows of the run."""
        return self.binding.layout

    @property
    def bytes(self) -> int:
        """How much memory the streams and the memory take."""
        tensors = [t for stream in self.streams for t in (stream.resid, *stream.side.values())]
        return self.memory.bytes + sum(t.numel() * t.element_size() for t in tensors)

    def to(self, device: torch.device | str) -> Trunk:
        """The same on another device."""
        streams = [
            Stream(s.resid.to(device), {name: value.to(device) for name, value in s.side.items()}) for s in self.streams
        ]
        return Trunk(self.backend, self.binding, streams, self.memory.to(device)).ended()

    def stream(self, layer: int, first: Int[Tensor, "batch"]) -> Stream:
        """The stream before a layer, from each row's column ``first`` on.

        Raises:
            ChangedInPlace: somebody edited it; take a ``.clone()`` of a captured activation before editing.
        """
        kept = self.streams[layer]
        if self.versions and version_of(kept.resid) != self.versions[layer]:
            raise ChangedInPlace(
                f"the stream before layer {layer} was changed in place, so nothing can go on from this run. Edit a "
                ".clone() of a captured activation.",
                layer=layer,
            )
        side = {name: columns_behind(value, first, self.layout) for name, value in kept.side.items()}
        return Stream(columns_behind(kept.resid, first, self.layout), side)


def columns_behind(value: Tensor, first: Int[Tensor, "batch"], layout: Layout) -> Tensor:
    """The columns of each row from ``first`` on; a view where all rows begin at the same."""
    low = int(first[0])
    if bool((first == low).all()):
        return value[:, low:] if low else value
    width = int((layout.length - first).max())
    column = (first[:, None] + torch.arange(width)).clamp(max=value.shape[1] - 1).to(value.device)
    return value[torch.arange(len(first), device=value.device)[:, None], column]
