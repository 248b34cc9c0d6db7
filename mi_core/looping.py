"""Recurrent passes: a model in which some layers run several times, as a model of its own.

The repeated layers are unrolled, so every pass is layers like any other, with their own numbers: points, captures,
memories, resumed runs, sweeps, gradients and generation know nothing of loops.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from mi_core.errors import InputError, MemoryMismatch
from mi_core.model import Model
from mi_core.protocols import Backend, Batch, Block, Memory, ModelShape, Residual, Site, Stream, Tap

__all__ = ["Loop", "Place", "looped"]


class Place(NamedTuple):
    """What runs as one layer of a looped model."""

    layer: int | None
    """The layer of the model inside; None for a step that mixes the streams of two passes."""
    turn: int
    """The pass, counted from 1; 0 outside the loop."""


@dataclass(frozen=True)
class Loop:
    """Which layers run how often, and what each further pass starts from: ``inject * first + carry * last``.

    ``first`` is the stream with which the first pass started, ``last`` what the pass before left. By default a pass
    goes on from the one before. Where it does not, a layer stands between two passes that does the mixing: it reads
    ``hook_resid_pre`` and ``hook_injected``, and leaves ``hook_resid_post``.

    Raises:
        InputError: no layers, or not one run of neighbours; no passes; weights that are no numbers, or with which every
            pass would be the same.

    Source: Dehghani et al. 2019, "Universal Transformers" (arXiv:1807.03819); with injection, Geiping et al. 2025,
    "Scaling up Test-Time Compute with Latent Reasoning" (arXiv:2502.05171).

    >>> Loop(range(1, 3), passes=2).index(2, turn=2)
    4
    """

    layers: range
    passes: int = 2
    inject: float = 0.0
    carry: float = 1.0

    def __post_init__(self) -> None:
        given: Any = self.layers
        listed = [given] if isinstance(given, int) else list(given) if isinstance(given, range | list | tuple) else []
        if not listed or listed != list(range(listed[0], listed[0] + len(listed))) or listed[0] < 0:
            raise InputError(f"layers={given!r}: give neighbouring layers in their order, such as range(4, 8).")
        object.__setattr__(self, "layers", range(listed[0], listed[0] + len(listed)))
        if isinstance(self.passes, bool) or not isinstance(self.passes, int) or self.passes < 1:
            raise InputError(f"passes={self.passes!r}: give a whole number of at least 1 (1: the model as it is).")
        if not (math.isfinite(self.inject) and math.isfinite(self.carry)):
            raise InputError(f"inject={self.inject!r}, carry={self.carry!r}: both are finite numbers.")
        if self.carry == 0:
            raise InputError(
                "carry=0: every pass would start from the same stream, so only the last would count. Run the model as "
                f"it is, with an intervention at 'blocks.{self.layers.start}.hook_resid_pre'."
            )

    @property
    def mixes(self) -> bool:
        """Whether something stands between the passes."""
        return (self.inject, self.carry) != (0, 1)

    def places(self, n_layers: int) -> list[Place]:
        """What each layer of the looped model is, for a model of ``n_layers``.

        >>> [tuple(place) for place in Loop(range(1, 2), passes=2, inject=1.0).places(3)]
        [(0, 0), (1, 1), (None, 2), (1, 2), (2, 0)]
        """
        inside: list[Place] = []
        for turn in range(1, self.passes + 1):
            inside += [Place(None, turn)] if turn > 1 and self.mixes else []
            inside += [Place(layer, turn) for layer in self.layers]
        before = [Place(layer, 0) for layer in range(self.layers.start)]
        return [*before, *inside, *(Place(layer, 0) for layer in range(self.layers.stop, n_layers))]

    def index(self, layer: int | None, turn: int = 0) -> int:
        """The number that a layer of the model inside has in the looped model: ``f"blocks.{loop.index(5, turn=2)}"``.

        ``turn`` is the pass, counted from 1, for layers in the loop; ``layer=None`` is what mixes before that pass.

        Raises:
            InputError: no such layer or pass.
        """
        last = self.layers.stop if layer is None else max(layer + 1, self.layers.stop)
        try:
            return self.places(last).index(Place(layer, turn))
        except ValueError:
            inside = f"layers {self.layers.start} to {self.layers.stop - 1} have the passes 1 to {self.passes}"
            raise InputError(f"{self} has no layer {layer} in pass {turn}: {inside}, the others pass 0.") from None

    def __str__(self) -> str:
        first, last = self.layers.start, self.layers.stop - 1
        mixing = f", inject {self.inject}, carry {self.carry}" if self.mixes else ""
        return f"layers {first}-{last} x {self.passes}{mixing}"


class Nothing:
    """What a mixing step remembers."""

    def cut(self, length: Tensor) -> Memory:
        """Itself."""
        return self

    def rows(self, index: Tensor) -> Memory:
        """Itself."""
        return self

    def to(self, device: Any) -> Memory:
        """Itself."""
        return self

    def tensors(self) -> Mapping[str, Tensor]:
        """None."""
        return {}

    def restored(self, tensors: Mapping[str, Tensor]) -> Memory:
        """Itself, from no tensors."""
        if tensors:
            raise MemoryMismatch(f"it holds {sorted(tensors)}, and a step between two passes remembers nothing")
        return self


@dataclass(frozen=True, eq=False)
class Carrying:
    """A block of the loop that hands the stream with which the first pass started on to the next pass."""

    block: Block
    key: str
    first: bool

    def __call__(self, stream: Stream, batch: Batch, tap: Tap, memory: Memory | None) -> tuple[Stream, Memory | None]:
        """The block inside sees a stream without it."""
        held = stream.resid if self.first else stream.side[self.key]
        stream, after = self.block(without(stream, self.key), batch, tap, memory)
        return Stream(stream.resid, {**stream.side, self.key: held}), after


@dataclass(frozen=True, eq=False)
class Mixing:
    """The step between two passes."""

    loop: Loop
    key: str
    last: bool

    def __call__(self, stream: Stream, batch: Batch, tap: Tap, memory: Memory | None) -> tuple[Stream, Memory | None]:
        """``inject * first + carry * last``."""
        first = tap("hook_injected", stream.side[self.key])
        resid = self.loop.inject * first + self.loop.carry * stream.resid
        mixed = without(stream, self.key) if self.last else stream
        return replace(mixed, resid=resid), None if batch.record is None else Nothing()


class LoopedBackend(nn.Module):
    """A backend whose blocks are those of another, some of them several times."""

    mixing: ClassVar[tuple[str, ...]] = ("hook_resid_pre", "hook_resid_post")

    def __init__(self, inner: Backend, loop: Loop) -> None:
        super().__init__()
        self.inner = inner
        self.loop = loop
        depth = inner.depth + 1 if isinstance(inner, LoopedBackend) else 0
        self.depth: int = depth
        self.key = f"loop.{depth}"
        self.places = loop.places(inner.shape.n_layers)
        self.shape: ModelShape = replace(
            inner.shape, n_layers=len(self.places), residual=tuple(map(self._rule, self.places))
        )

    def _rule(self, place: Place) -> Residual:
        if place.layer is None:
            return Residual(
                "own", f"{self.loop.inject:g} hook_injected + {self.loop.carry:g} hook_resid_pre", self._sum
            )
        rules = self.inner.shape.residual
        return rules[place.layer] if rules else Residual()

    def _sum(self, here: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        first, last = here["hook_injected"], here["hook_resid_pre"]
        return {"hook_resid_post": self.loop.inject * first + self.loop.carry * last}

    @property
    def blocks(self) -> Sequence[Block]:
        """Every pass in its order."""
        blocks = self.inner.blocks
        if not self.loop.mixes or self.loop.passes == 1:
            return tuple(blocks[place.layer] for place in self.places if place.layer is not None)
        return tuple(self._block(blocks, place) for place in self.places)

    def _block(self, blocks: Sequence[Block], place: Place) -> Block:
        last = place.turn == self.loop.passes
        if place.layer is None:
            return Mixing(self.loop, self.key, last)
        if place.turn == 0 or last:
            return blocks[place.layer]
        return Carrying(blocks[place.layer], self.key, (place.layer, place.turn) == (self.loop.layers.start, 1))

    def sites(self) -> Sequence[Site]:
        """The sites of the blocks, under the numbers that they have here."""
        return tuple(self._sites())

    def _sites(self) -> Iterator[Site]:
        joints = tuple(at for at, place in enumerate(self.places) if place.layer is None)
        joined: set[str] = set()
        for site in self.inner.sites():
            if site.layers is None:
                yield site
                continue
            own = {at for at, place in enumerate(self.places) if place.layer in site.layers}
            if joints and site.name in self.mixing and site.name not in joined:
                joined.add(site.name)
                own.update(joints)
            yield replace(site, layers=tuple(sorted(own)))
            if joints and site.name == "hook_resid_pre" and len(joined) == 1:
                meaning = "the stream with which the first pass started"
                yield Site("hook_injected", site.dims, site.sizes, joints, meaning)

    def embed(self, batch: Batch, tap: Tap) -> Stream:
        """That of the model inside."""
        return self.inner.embed(batch, tap)

    def unembed(self, resid: Tensor, tap: Tap) -> Tensor:
        """That of the model inside."""
        return self.inner.unembed(resid, tap)

    def weight(self, name: str) -> Tensor:
        """A weight under the number that its layer has here: the same tensor in every pass."""
        parts = name.split(".")
        if parts[0] != "blocks" or len(parts) < 2 or not parts[1].isdigit():
            return self.inner.weight(name)
        at = int(parts[1])
        place = self.places[at] if at < len(self.places) else Place(None, 0)
        if place.layer is None:
            raise KeyError(f"there is no weight {name!r}: layer {at} of {len(self.places)} has none")
        return self.inner.weight(".".join(["blocks", str(place.layer), *parts[2:]]))


def without(stream: Stream, key: str) -> Stream:
    """The stream without one of its side channels."""
    return Stream(stream.resid, {name: value for name, value in stream.side.items() if name != key})


def looped(model: Model, loop: Loop) -> Model:
    """A model in which some layers run several times; it shares the weights of ``model``.

    What can be done with a model can be done with it, at exact numbers: a layer that runs three times is three layers,
    each with its own points, captures, keys and values. ``loop.index(layer, turn)`` says which is which.

    Raises:
        InputError: the model does not have these layers.
    """
    n_layers = model.shape.n_layers
    if loop.layers.stop > n_layers:
        raise InputError(f"{loop}: {model.name} has {n_layers} layers, 0 to {n_layers - 1}.", layers=loop.layers)
    return Model(
        LoopedBackend(model.backend, loop),
        name=f"{model.name} ({loop})",
        config=model.config,
        tokenizer=model._tokenizer,
        provenance=replace(model.provenance, ref=f"{model.provenance.ref} ({loop})"),
    )
