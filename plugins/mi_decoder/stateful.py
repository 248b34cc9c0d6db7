"""Layers whose parts go on from a state: recurrent mixers, and channel parts that read the position before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_core.errors import MemoryMismatch
from mi_core.memory_files import restored
from mi_core.protocols import Batch, Memory, Stream, Tap
from mi_core.static_memory import with_room
from mi_decoder.layers import Layer, SequentialBlock
from mi_decoder.parts import Part
from mi_decoder.split_inputs import channel_input

__all__ = ["PartMemories", "StatefulBlock", "StatefulChannelModule", "StatefulLayer", "StatefulMixerModule"]


@runtime_checkable
class StatefulMixerModule(Part, Protocol):
    """A mixer that also reads, and may write, the side channels of the stream."""

    def mix(
        self,
        x: Float[Tensor, "batch pos d_model"],
        side: Mapping[str, Tensor],
        batch: Batch,
        tap: Tap,
        memory: Memory | None,
    ) -> tuple[Float[Tensor, "batch kept d_model"], Mapping[str, Tensor], Memory | None]:
        """Its own output in the kept columns, the side channels, and what it remembers if ``batch.record`` asks."""
        ...


@runtime_checkable
class StatefulChannelModule(Part, Protocol):
    """A channel part that remembers something of the position before."""

    def transform(
        self, x: Float[Tensor, "batch pos d_model"], batch: Batch, tap: Tap, memory: Memory | None
    ) -> tuple[Float[Tensor, "batch kept d_model"], Memory | None]:
        """What it adds to the stream, and what it remembers if ``batch.record`` asks for it.

        With ``batch.keep``, ``x`` holds the columns before the kept ones, then those; the latter's are returned.
        """
        ...


class StatefulLayer(Layer):
    """A `Layer` of a stateful mixer and a stateful channel part, without post-norms."""

    def build(self, d_model: int) -> StatefulBlock:
        """The module."""
        return StatefulBlock(self, d_model)


class StatefulBlock(SequentialBlock):
    """The channel part reads what the mixer has written, in kept columns and, for their sake, the ones before."""

    def forward(self, stream: Stream, batch: Batch, tap: Tap, memory: Memory | None) -> tuple[Stream, Memory | None]:
        """The stream behind the layer."""
        parts: Mapping[str, Any] = self._modules  # spares a Python call for each part
        ln1, ln2 = parts["ln1"], parts["ln2"]
        if memory is not None and not isinstance(memory, PartMemories):
            raise MemoryMismatch(f"a layer goes on from its parts' states, got {type(memory).__name__}", memory=memory)
        past = PartMemories(None, None) if memory is None else memory
        resid = stream.resid
        normed = resid if ln1 is None else ln1.normalise(resid, tap)
        needed = batch if batch.keep is None else replace(batch, keep=with_those_before(batch.keep))
        out, side, mixer = parts["mixer"].mix(normed, stream.side, needed, tap, past.mixer)
        resid = tap("hook_resid_mid", needed.kept(resid) + tap("hook_attn_out", out))
        read = channel_input(resid, tap)
        normed = read if ln2 is None else ln2.normalise(read, tap)
        out, channel = parts["channel"].transform(normed, batch, tap, past.channel)
        resid = resid[:, -out.shape[1] :] + tap("hook_mlp_out", out)
        return Stream(resid, side), None if batch.record is None else PartMemories(mixer, channel)


def with_those_before(keep: Int[Tensor, "batch kept"]) -> Int[Tensor, "batch twice"]:
    """The columns before these, then these; the first column stands in for the one before it.

    >>> with_those_before(torch.tensor([[4], [0]])).tolist()
    [[3, 4], [0, 0]]
    """
    return torch.cat(((keep - 1).clamp(min=0), keep), 1)


@dataclass(frozen=True, eq=False)
class PartMemories:
    """What the two parts of a layer remember."""

    mixer: Memory | None
    channel: Memory | None

    def cut(self, length: Tensor) -> PartMemories:
        """As if row r had seen ``length[r]`` positions."""
        return PartMemories(*(None if part is None else part.cut(length) for part in (self.mixer, self.channel)))

    def rows(self, index: Tensor) -> PartMemories:
        """Row r becomes row ``index[r]``."""
        return PartMemories(*(None if part is None else part.rows(index) for part in (self.mixer, self.channel)))

    def to(self, device: Any) -> PartMemories:
        """The same on another device."""
        return PartMemories(*(None if part is None else part.to(device) for part in (self.mixer, self.channel)))

    def with_room(self, positions: int) -> PartMemories:
        """The same with room for so many positions; itself where no part grows with them."""
        parts = [None if part is None else with_room(part, positions) for part in (self.mixer, self.channel)]
        grown = parts[0] is not self.mixer or parts[1] is not self.channel
        return PartMemories(*parts) if grown else self

    def restored(self, tensors: Mapping[str, Tensor]) -> PartMemories:
        """The same kinds of memories with other tensors.

        Raises:
            MemoryMismatch: tensors of other parts, or that do not fit a part.
        """
        parts = {"mixer": self.mixer, "channel": self.channel}
        seen = sorted({name.partition(".")[0] for name in tensors})
        if seen != (wanted := sorted(name for name, part in parts.items() if part is not None)):
            raise MemoryMismatch(f"it holds tensors of {seen}, the layer remembers {wanted}", seen=seen, wanted=wanted)
        made: dict[str, Memory | None] = {}
        for name, part in parts.items():
            own = {key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")}
            made[name] = None if part is None else restored(part, own)
        return PartMemories(**made)

    def tensors(self) -> Mapping[str, Tensor]:
        """Their tensors by part and name."""
        parts = {"mixer": self.mixer, "channel": self.channel}
        return {
            f"{name}.{key}": tensor
            for name, part in parts.items()
            if part is not None
            for key, tensor in part.tensors().items()
        }
