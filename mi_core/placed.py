"""A backend whose parts are on several devices, in memory or on disk: the core moves what flows between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from mi_core.device_maps import OUTSIDE, DeviceMap, PlaceUse, Unit, uses_of
from mi_core.errors import NotLoaded
from mi_core.fill import slots
from mi_core.moving import batch_on, memory_on, stream_on
from mi_core.offloading import Desk, Offloaded
from mi_core.parking import Parking
from mi_core.protocols import Backend, Batch, Block, Memory, ModelShape, Site, Stream, Tap
from mi_core.side_streams import side_stream
from mi_core.taps import IDLE

__all__ = ["PlacedBackend", "PlacedBlock", "placed_in"]


class PlacedBackend(nn.Module):
    """Another backend, each part of it where a device map has put it.

    Streams, batches and memories go to the layer that needs them. Embedding and unembedding are where inputs and
    logits are. Weights that are offloaded are there while their layer is called.
    """

    def __init__(
        self,
        inner: Backend,
        device_map: DeviceMap,
        units: Mapping[str, Unit],
        layers: Mapping[int, str],
        offloaded: Mapping[str, Offloaded],
        *,
        desk: Desk | None = None,
        numbers: bool = True,
    ) -> None:
        super().__init__()
        self.inner = inner
        self.device_map, self.units, self.layers, self.offloaded = device_map, units, layers, offloaded
        self.desk, self.numbers = desk, numbers
        self.device = torch.device(device_map.main)
        """Where inputs, logits and captures are."""
        self.blocks: tuple[Block, ...] = tuple(
            PlacedBlock(block, torch.device(device_map.computed_on(unit)), self.device, offloaded.get(unit), numbers)
            for block, unit in zip(inner.blocks, layers.values(), strict=True)
        )

    @cached_property
    def parking(self) -> Parking | None:
        """Where streams of runs side by side wait: on the host, if they are not there anyway."""
        return None if self.device.type == "cpu" else Parking(self.device, side_stream(self.device))

    @property
    def shape(self) -> ModelShape:
        """That of the backend inside."""
        return self.inner.shape

    @property
    def dtype(self) -> torch.dtype:
        """That of the first parameter."""
        inner: Any = self.inner
        first: Tensor = next(inner.parameters())
        return first.dtype

    @property
    def uses(self) -> list[PlaceUse]:
        """What each place holds."""
        return uses_of(self.device_map, self.units)

    def sites(self) -> Sequence[Site]:
        """Those of the backend inside."""
        return self.inner.sites()

    def present(self, unit: str) -> AbstractContextManager[None]:
        """Have a unit's weights where they are computed with, meanwhile."""
        return present(self.offloaded.get(unit), self.numbers)

    def embed(self, batch: Batch, tap: Tap) -> Stream:
        """The stream before the first block."""
        with self.present(OUTSIDE):
            return self.inner.embed(batch, tap)

    def unembed(self, resid: Tensor, tap: Tap) -> Tensor:
        """Logits, on the main device."""
        with self.present(OUTSIDE):
            return self.inner.unembed(resid.to(self.device), tap)

    def weight(self, name: str) -> Tensor:
        """A weight in the field's layout, on the main device; one that is offloaded is brought in for whoever asks."""
        unit = self.holding(name)
        with self.present(unit):
            found = self.inner.weight(name)
        if found.is_meta:
            raise NotLoaded(f"{name!r} is made of weights outside of {unit!r}, some of which are offloaded.", name=name)
        return found.to(self.device)

    def holding(self, weight: str) -> str:
        """The unit that a weight in the field's layout is made of."""
        layer = weight.split(".")[1] if weight.startswith("blocks.") else ""
        return self.layers.get(int(layer), OUTSIDE) if layer.isdecimal() else OUTSIDE

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Those of the backend inside, under its names; offloaded ones are brought in, a unit at a time."""
        inner: Any = self.inner
        for unit, run in groupby(self.parameter_names(recurse, remove_duplicate), self.unit_of):
            with self.present(unit):
                for name in run:
                    yield f"{prefix}.{name}" if prefix else name, inner.get_parameter(name)

    def parameter_names(self, recurse: bool = True, remove_duplicate: bool = True) -> list[str]:
        """The names of the parameters inside, in their order; of those that are tied, the first."""
        inner: Any = self.inner
        names = [name for name, _ in inner.named_parameters(recurse=recurse, remove_duplicate=False)]
        if not remove_duplicate:
            return names
        source = {
            name: of for unit in self.units.values() for name, of in zip(unit.parameters, unit.sources, strict=True)
        }
        return list({source[name]: name for name in reversed(names)}.values())[::-1]

    def unit_of(self, parameter: str) -> str:
        """The unit that a parameter belongs to."""
        return self._owner[parameter]

    @cached_property
    def _owner(self) -> dict[str, str]:
        return {name: unit.name for unit in self.units.values() for name in unit.parameters}

    def gathered(self) -> dict[str, Tensor]:
        """Every parameter in the host's memory, tied ones one tensor."""
        found: dict[str, Tensor] = {}
        places = slots(self.inner)  # type: ignore[arg-type]  # it is a module
        for unit in self.units.values():
            own = self.offloaded[unit.name].read() if unit.name in self.offloaded else places
            for name, source in zip(unit.parameters, unit.sources, strict=True):
                found[name] = found.setdefault(source, own[name].cpu())
        return found

    def understudied(self) -> PlacedBackend:
        """The same for a rehearsal: nothing that is offloaded is read."""
        return PlacedBackend(self.inner, self.device_map, self.units, self.layers, self.offloaded, numbers=False)


@dataclass(frozen=True, eq=False)
class PlacedBlock:
    """A layer on its device."""

    block: Block
    device: torch.device
    main: torch.device
    weights: Offloaded | None
    """Its weights, if they come and go."""
    numbers: bool

    def present(self) -> AbstractContextManager[None]:
        """Have its weights meanwhile, for several calls."""
        return present(self.weights, self.numbers)

    def __call__(self, stream: Stream, batch: Batch, tap: Tap, memory: Memory | None) -> tuple[Stream, Memory | None]:
        """The layer, with everything that it needs beside it."""
        here = self.device
        if tap is not IDLE and here != self.main:
            tap = TapOn(tap, here)
        with self.present():
            return self.block(stream_on(stream, here), batch_on(batch, here), tap, memory_on(memory, here))


def present(weights: Offloaded | None, numbers: bool) -> AbstractContextManager[None]:
    """Have weights meanwhile that come and go; others are there."""
    return nullcontext() if weights is None else weights.present(numbers=numbers)


@dataclass(frozen=True, eq=False)
class TapOn:
    """A tap for a layer on another device than the main one: edges that are cut come to it."""

    tap: Tap
    device: torch.device

    def __call__(self, name: str, value: Tensor) -> Tensor:
        return self.tap(name, value)

    def wants(self, *names: str) -> bool:
        return self.tap.wants(*names)

    def edits(self, *names: str) -> bool:
        return self.tap.edits(*names)

    def cut_edges(self) -> Tensor | None:
        cut = self.tap.cut_edges()
        return None if cut is None else cut.to(self.device)


def placed_in(backend: object) -> PlacedBackend | None:
    """The placed backend that this one is, or stands around."""
    while backend is not None and not isinstance(backend, PlacedBackend):
        backend = getattr(backend, "inner", None)
    return backend
