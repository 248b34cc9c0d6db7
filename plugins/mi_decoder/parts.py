"""What a decoder is made of: values that describe a part, and the modules that they build.

A description is a small frozen dataclass; a module holds parameters and offers sites. A family (or a plugin) may bring
its own of either, as long as they fit these protocols: the decoder asks nothing else of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from mi_core.protocols import Batch, Memory, Residual, Site, Stream, Tap
from mi_decoder.split_inputs import OwnInput

__all__ = [
    "Channel",
    "ChannelModule",
    "LayerLike",
    "LayerModule",
    "Mixer",
    "MixerModule",
    "Norm",
    "NormModule",
    "Part",
    "SplitMixerModule",
]


@runtime_checkable
class Part(Protocol):
    """A module with parameters."""

    def sites(self) -> Sequence[Site]:
        """The sites that it offers, in firing order, without layers: the decoder fills those in."""
        ...

    def weights(self) -> Mapping[str, Tensor]:
        """Its weights in the field's names and layouts (``"attn.W_Q"``), as views."""
        ...


@runtime_checkable
class NormModule(Part, Protocol):
    """A norm with its gain."""

    def normalise(self, x: Float[Tensor, "*batch d_model"], tap: Tap) -> Float[Tensor, "*batch d_model"]:
        """The normed input, gain and bias included."""
        ...


@runtime_checkable
class MixerModule(Part, Protocol):
    """Whatever moves information between positions."""

    def mix(
        self, x: Float[Tensor, "batch pos d_model"], batch: Batch, tap: Tap, memory: Memory | None
    ) -> tuple[Float[Tensor, "batch query_pos d_model"], Memory | None]:
        """Its own output (before any post-norm), and what it remembers if ``batch.record`` asks for it."""
        ...


@runtime_checkable
class SplitMixerModule(Part, Protocol):
    """A mixer whose heads can read inputs of their own: its layer then offers them (`mi_decoder.split_inputs`)."""

    @property
    def heads_that_read(self) -> Mapping[str, int]:
        """How many ``q``, ``k`` and ``v`` there are."""
        ...

    def mix(
        self,
        x: Float[Tensor, "batch pos d_model"],
        batch: Batch,
        tap: Tap,
        memory: Memory | None,
        inputs: Mapping[str, OwnInput] | None = None,
    ) -> tuple[Float[Tensor, "batch query_pos d_model"], Memory | None]:
        """As `MixerModule`; queries, keys or values with ``inputs`` of their own read those."""
        ...


@runtime_checkable
class ChannelModule(Part, Protocol):
    """Whatever transforms each position on its own."""

    def transform(
        self, x: Float[Tensor, "batch pos d_model"], batch: Batch, tap: Tap
    ) -> Float[Tensor, "batch pos d_model"]:
        """Its own output, before any post-norm; ``x`` holds the kept columns where ``batch.keep`` names some."""
        ...


@runtime_checkable
class LayerModule(Part, Protocol):
    """A block: what the core calls."""

    residual: Residual

    def __call__(self, stream: Stream, batch: Batch, tap: Tap, memory: Memory | None) -> tuple[Stream, Memory | None]:
        """The stream behind the layer, and what it remembers."""
        ...


@runtime_checkable
class Norm(Protocol):
    """Describes a norm; ``name`` is its slot (``"ln1"``), which its sites carry."""

    def build(self, d_model: int, name: str) -> nn.Module:
        """A `NormModule` with empty parameters."""
        ...


@runtime_checkable
class Mixer(Protocol):
    """Describes a mixer."""

    def build(self, d_model: int) -> nn.Module:
        """A `MixerModule` with empty parameters."""
        ...


@runtime_checkable
class Channel(Protocol):
    """Describes a channel part."""

    def build(self, d_model: int) -> nn.Module:
        """A `ChannelModule` with empty parameters."""
        ...


@runtime_checkable
class LayerLike(Protocol):
    """Describes a layer."""

    def build(self, d_model: int) -> nn.Module:
        """A `LayerModule` with empty parameters."""
        ...
