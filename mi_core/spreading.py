"""Filling a model's parts where a device map puts them, from the checkpoint itself wherever that will do."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mi_core.blueprint import Blueprint
from mi_core.device_maps import Device, Limits, Unit, check_present, device_map_of, layer_units, units_of
from mi_core.errors import LoadError
from mi_core.fill import assign, check_checkpoint, check_loaded, check_value, converted, kept_dtype, slots, viewed
from mi_core.lanes import lane_to
from mi_core.offloading import Desk, Offloaded
from mi_core.placed import PlacedBackend
from mi_core.prefetching import Courier
from mi_core.protocols import Backend
from mi_core.safetensors_header import read_header
from mi_core.side_streams import side_stream
from mi_core.tensors import TensorIndex

__all__ = ["Spreading"]


class Spreading:
    """One model on its way to several places."""

    def __init__(
        self, backend: Backend, module: nn.Module, blueprint: Blueprint, tensors: TensorIndex, dtype: torch.dtype
    ) -> None:
        self.backend, self.module, self.blueprint, self.tensors = backend, module, blueprint, tensors
        self.dtype = dtype
        self.places = slots(module)
        self.layers = layer_units(backend)

    def fill(
        self,
        asked: str | Mapping[str, Device],
        limits: Limits | None,
        folder: str | os.PathLike[str] | None,
        *,
        family: str,
        ignore: Collection[str],
    ) -> tuple[PlacedBackend, tuple[str, ...]]:
        """The backend with its weights in place, and the names of tensors that ``ignore`` left out.

        Raises:
            LoadError: a map or a limit that does not fit, or a device that is not there.
        """
        ignored = check_checkpoint(self.places, self.blueprint, self.tensors, family, ignore)
        units = units_of(self.backend, self.module, self.blueprint, self.dtype)
        found = device_map_of(asked, units, limits, layers=self.layers)
        for place in dict.fromkeys(found.kept.values()):
            check_present(place)
        main = torch.device(found.main)
        desk = Desk(Courier(lane_to(main, side_stream(main)), found.room))
        offloaded: dict[str, Offloaded] = {}
        resident: dict[tuple[str, str], Tensor] = {}
        store = None if folder is None else Store(Path(folder))
        for name, unit in units.items():
            if found.offloaded(name):
                read = self._reader(unit, found.kept[name], store)
                offloaded[name] = Offloaded(self.module, self._emptied(unit), read, found.main, desk)
            else:
                self._settle(unit, found.kept[name], resident)
        coming = {parameter for name in offloaded for parameter in units[name].parameters}
        check_loaded(self.module, family, offloaded=coming)
        return PlacedBackend(self.backend, found, units, self.layers, offloaded, desk=desk), ignored

    def _stored(self, name: str, tensors: TensorIndex) -> Tensor:
        """A parameter's numbers as the checkpoint has them, which fit."""
        weight = self.blueprint.weights[name]
        value = viewed(name, weight, tensors)
        check_value(name, weight, value, self.places[name], tensors)
        return value

    def _kept_dtype(self, name: str, value: Tensor) -> torch.dtype:
        return kept_dtype(value, self.blueprint.weights[name], self.dtype)

    def _value(self, name: str, device: str, tensors: TensorIndex) -> tuple[Tensor, int]:
        """A parameter's numbers on a device, and how many bytes were copied for them."""
        value = self._stored(name, tensors)
        own = converted(value, self._kept_dtype(name, value), torch.device(device))
        return own, 0 if own is value else value.nbytes

    def _settle(self, unit: Unit, place: str, resident: dict[tuple[str, str], Tensor]) -> None:
        """Weights that stay; what is tied and lies on one device is one tensor."""
        for name, source in zip(unit.parameters, unit.sources, strict=True):
            if (source, place) not in resident:
                resident[source, place], copied = self._value(source, place, self.tensors)
                self.tensors.let_go(copied)
            assign(self.module, name, resident[source, place])

    def _emptied(self, unit: Unit) -> dict[str, Tensor]:
        """What is in the places of weights while they are away; tied ones are one."""
        made: dict[str, Tensor] = {}
        for name, source in zip(unit.parameters, unit.sources, strict=True):
            if source not in made:
                weight, place = self.blueprint.weights[source], self.places[source]
                made[source] = torch.empty(place.shape, dtype=kept_dtype(place, weight, self.dtype), device="meta")
            assign(self.module, name, made[source])
        return {name: made[source] for name, source in zip(unit.parameters, unit.sources, strict=True)}

    def _reader(self, unit: Unit, place: str, store: Store | None) -> Callable[[], Mapping[str, Tensor]]:
        """How an offloaded unit's weights are read."""

        def read(tensors: TensorIndex) -> dict[str, Tensor]:
            return tied_again(unit, lambda source: self._value(source, "cpu", tensors)[0])

        if place == "cpu":
            held = read(self.tensors)
            return lambda: held
        fresh = self.tensors.anew()
        # nothing is converted here: that would read all that stays on disk
        stored = {source: self._stored(source, fresh) for source in dict.fromkeys(unit.sources)}
        mapped = {storage._cdata for storage in fresh.maps.values()}
        plain = all(
            value.untyped_storage()._cdata in mapped and value.dtype == self._kept_dtype(source, value)
            for source, value in stored.items()
            if value.numel()
        )
        if not plain and store is not None:
            written = store.written(unit, read(fresh))
            return written.read
        if self.tensors.memory:
            raise LoadError(
                f"{self.tensors.where}: {unit.name!r} is to stay on disk, and pickle files cannot be read in parts. "
                "Give offload_folder=, where it is written once, or convert the checkpoint to safetensors."
            )
        return lambda: read(self.tensors.anew())


def tied_again(unit: Unit, tensor: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """A unit's parameters from their sources, each of which is one tensor."""
    own = {source: tensor(source) for source in dict.fromkeys(unit.sources)}
    return {name: own[source] for name, source in zip(unit.parameters, unit.sources, strict=True)}


class Store:
    """A folder of its own in the offload folder, for units that the checkpoint does not hold as they are needed.

    Raises:
        LoadError: the folder cannot be written, or has no room.
    """

    def __init__(self, parent: Path) -> None:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            self.folder = Path(tempfile.mkdtemp(prefix="offloaded-", dir=parent))
        except OSError as error:
            raise LoadError(f"offload_folder {str(parent)!r} cannot be written: {error}.", folder=parent) from error

        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def written(self, unit: Unit, values: Mapping[str, Tensor]) -> Stored:
        """Write a unit down once, under the names of its sources."""
        from safetensors.torch import save_file

        path = self.folder / f"{unit.name}.safetensors"
        free = shutil.disk_usage(self.folder).free
        if unit.bytes > free:
            raise LoadError(
                f"offload_folder {str(self.folder.parent)!r} has {free:,} bytes left, and {unit.name!r} needs "
                f"{unit.bytes:,}. Free some, give another folder, or leave it out: the checkpoint is then read anew "
                "each time.",
                needed=unit.bytes,
                free=free,
            )
        own = {source: values[name].contiguous() for name, source in zip(unit.parameters, unit.sources, strict=True)}
        try:
            save_file(own, path)
        except Exception as error:  # safetensors has errors of its own for a full disk
            raise LoadError(f"{str(path)!r} cannot be written: {error}.", folder=self.folder.parent) from error
        return Stored(self, unit, TensorIndex(read_header(path), {}, f"file {str(path)!r}", {}))


@dataclass(frozen=True)
class Stored:
    """A unit in a store, whose folder is there as long as anybody has one of these."""

    store: Store
    unit: Unit
    tensors: TensorIndex

    def read(self) -> dict[str, Tensor]:
        """Its weights, in pages of their own."""
        return tied_again(self.unit, self.tensors.anew().tensor)
