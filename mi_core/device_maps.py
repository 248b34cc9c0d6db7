"""Which part of a model goes where: maps that accelerate computes, or that a user writes, over whole layers."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final, TypeAlias

import torch
from torch import nn

from mi_core.blueprint import Blueprint
from mi_core.errors import LoadError
from mi_core.fill import kept_dtype, listing, slots
from mi_core.protocols import Backend

__all__ = [
    "OUTSIDE",
    "DeviceMap",
    "Limits",
    "PlaceUse",
    "Unit",
    "bytes_of",
    "check_present",
    "device_map_of",
    "layer_units",
    "limits_of",
    "units_of",
    "uses_of",
]

OUTSIDE: Final = "outside"
"""What is no layer: embedding, final norm, unembedding."""
COMPUTED: Final = ("auto", "balanced", "sequential")
SIZES: Final = {"": 1, "b": 1} | {
    f"{letter}{infix}b": base**power
    for infix, base in (("", 1000), ("i", 1024))
    for power, letter in enumerate("kmgt", start=1)
}

Device: TypeAlias = str | int | torch.device
Limits: TypeAlias = Mapping[str, int]
"""Bytes that each device may hold, in the order in which they are filled."""


@dataclass(frozen=True)
class Unit:
    """A part of a model that goes to one place as a whole: a layer, or all that is outside of layers."""

    name: str
    """``"outside"`` or ``"blocks.3"``."""
    parameters: tuple[str, ...]
    sizes: tuple[int, ...]
    """Bytes of each parameter."""
    sources: tuple[str, ...]
    """For each parameter, the one whose numbers it has: itself, or that to which it is tied."""

    @property
    def bytes(self) -> int:
        """Its weights, tied ones once."""
        return sum(dict(zip(self.sources, self.sizes, strict=True)).values())


@dataclass(frozen=True)
class DeviceMap:
    """Where each unit's weights stay, and where it is computed."""

    kept: Mapping[str, str]
    """Unit -> ``"cuda:0"``, ``"cpu"``, ``"disk"``."""
    room: int | None = None
    """Bytes on the first device for what comes and goes; None: nobody has set a limit."""

    @property
    def main(self) -> str:
        """Where inputs, logits and captures are, and where what is offloaded is computed: the first accelerator."""
        return next((place for place in self.kept.values() if place not in ("cpu", "disk")), "cpu")

    def computed_on(self, unit: str) -> str:
        """The device of a unit's computations."""
        return self.main if self.offloaded(unit) else self.kept[unit]

    def offloaded(self, unit: str) -> bool:
        """Whether a unit's weights come to its device for each call, and go behind it."""
        place = self.kept[unit]
        return place == "disk" or (place == "cpu" and self.main != "cpu")


@dataclass(frozen=True)
class PlaceUse:
    """What one place holds of a model."""

    place: str
    units: tuple[str, ...]
    bytes: int
    offloaded: bool
    """Whether it is brought to another device for each call."""
    ahead: bool = False
    """Whether there is room for two layers that come, so that one comes while another computes."""


def uses_of(found: DeviceMap, units: Mapping[str, Unit]) -> list[PlaceUse]:
    """What each place holds, in the order of the map."""
    coming = largest(found, units, 2)
    ahead = len(coming) == 2 and (found.room is None or sum(coming) <= found.room)
    return [
        PlaceUse(
            place,
            held := tuple(name for name in units if found.kept[name] == place),
            sum(units[name].bytes for name in held),
            offloaded := found.offloaded(held[0]),
            offloaded and ahead,
        )
        for place in dict.fromkeys(found.kept.values())
    ]


def units_of(backend: Backend, module: nn.Module, blueprint: Blueprint, dtype: torch.dtype) -> dict[str, Unit]:
    """The units of a backend; layers that are one module are one unit, named after the first.

    Raises:
        LoadError: its layers are not modules inside it, so nobody knows which weights are whose.
    """
    paths = {id(part): path for path, part in module.named_modules()}
    owner: dict[str, str] = {}
    for (layer, unit), block in zip(layer_units(backend).items(), backend.blocks, strict=True):
        if id(block) not in paths:
            raise LoadError(f"layer {layer} is no module inside its backend, so it cannot be placed: load it whole.")
        owner[f"{paths[id(block)]}."] = unit
    members: dict[str, list[str]] = {name: [] for name in (OUTSIDE, *owner.values())}
    places = slots(module)
    for name in places:
        prefix = next((prefix for prefix in owner if name.startswith(prefix)), None)
        members[OUTSIDE if prefix is None else owner[prefix]].append(name)
    units = {}
    for unit, names in members.items():
        sources = tuple(blueprint.tie.get(name, name) for name in names)
        sizes = tuple(
            places[name].numel() * kept_dtype(places[name], blueprint.weights[source], dtype).itemsize
            for name, source in zip(names, sources, strict=True)
        )
        units[unit] = Unit(unit, tuple(names), sizes, sources)
    return units


def layer_units(backend: Backend) -> dict[int, str]:
    """The unit of each layer."""
    first: dict[int, str] = {}
    return {layer: first.setdefault(id(block), f"blocks.{layer}") for layer, block in enumerate(backend.blocks)}


def device_map_of(
    asked: str | Mapping[str, Device], units: Mapping[str, Unit], limits: Limits | None, *, layers: Mapping[int, str]
) -> DeviceMap:
    """The map that is asked for; ``layers`` says which unit each layer is.

    Raises:
        LoadError: no such kind of map, a name that is no part of the model, a part without a place, or a limit that is
            too small for one part.
    """
    if isinstance(asked, Mapping):
        if limits is not None:
            raise LoadError("a device_map that names each part's place needs no max_memory: leave one out.")
        return DeviceMap(written(asked, layers))
    from mi_core.computed_maps import computed, free_now

    if asked not in COMPUTED:
        raise LoadError(
            f"device_map={asked!r}: give {', '.join(map(repr, COMPUTED))}, or a mapping from parts "
            f"({OUTSIDE!r}, 'blocks.0', ...) to devices.",
            device_map=asked,
        )
    known = free_now() if limits is None else limits
    found = DeviceMap(computed(asked, units, known))
    if limits is not None:
        check_limits(found, units, limits)
    held = sum(unit.bytes for name, unit in units.items() if found.kept[name] == found.main)
    return replace(found, room=max(0, known.get(found.main, 0) - held))


def written(asked: Mapping[str, Device], layers: Mapping[int, str]) -> dict[str, str]:
    """A user's map: the closest name counts, ``"blocks.3"`` before ``"blocks"`` before ``""``."""
    names = [OUTSIDE, *(f"blocks.{layer}" for layer in layers)]
    for name in asked:
        if name not in (*names, "blocks", ""):
            close = difflib.get_close_matches(str(name), names, n=1)
            raise LoadError(
                f"device_map names {name!r}, which is no part of this model: its parts are {listing(names)}, and "
                f"'blocks' for all layers, '' for everything.{f' Did you mean {close[0]!r}?' if close else ''}",
                name=name,
            )
    given = {
        name: asked[key] for name in names if (key := next((k for k in keys_of(name) if k in asked), None)) is not None
    }
    if gaps := [name for name in names if name not in given]:
        raise LoadError(
            f"device_map leaves out {listing(gaps)}: every part needs a place; '' names it for all the rest.",
            names=tuple(gaps),
        )
    kept = {OUTSIDE: place_name(given[OUTSIDE])}
    for layer, unit in layers.items():
        place = place_name(given[f"blocks.{layer}"])
        if kept.setdefault(unit, place) != place:
            raise LoadError(f"device_map tears layer {layer} from {unit}, with which it shares all weights.", name=unit)
    return kept


def keys_of(name: str) -> Sequence[str]:
    """The names under which a map may give a part's place, the closest first."""
    return (name, "") if name == OUTSIDE else (name, "blocks", "")


def place_name(device: Device) -> str:
    """A place as maps have it.

    >>> place_name(1), place_name("cuda"), place_name("disk")
    ('cuda:1', 'cuda:0', 'disk')

    Raises:
        LoadError: no device that torch knows.
    """
    if device == "disk":
        return "disk"
    try:
        if isinstance(device, bool):
            raise TypeError("no number of a device")
        known = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise LoadError(
            f"{device!r} is no place for weights: 'cpu', 'disk', 'cuda:0', 1, ...", device=device
        ) from error
    if known.type == "meta":
        raise LoadError("device_map says 'meta', where weights have no numbers: say 'disk'.", device=device)
    return "cpu" if known.type == "cpu" else f"{known.type}:{known.index or 0}"


def check_present(place: str) -> None:
    """Refuse a device that is not there, or no longer."""
    if place in ("cpu", "disk"):
        return
    try:
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch without CUDA asserts
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise LoadError(
            f"{place!r} is not available here ({reason}): map its parts to a device that is, 'cpu' or 'disk'.",
            device=place,
        ) from None


def limits_of(asked: Mapping[Device, int | str] | None) -> dict[str, int] | None:
    """Bytes by place, accelerators first.

    >>> limits_of({"cpu": "2GB", 0: "512MiB"})
    {'cuda:0': 536870912, 'cpu': 2000000000}
    """
    if asked is None:
        return None
    if not isinstance(asked, Mapping):
        raise LoadError(
            f'max_memory={asked!r}: give what each place may hold, such as {{"cuda:0": "10GB", "cpu": "30GB"}}.',
            max_memory=asked,
        )
    known = {place_name(device): bytes_of(size) for device, size in asked.items()}
    order = {"cpu": 1, "disk": 2}
    return dict(sorted(known.items(), key=lambda pair: (order.get(pair[0], 0), pair[0])))


def bytes_of(size: int | str) -> int:
    """A size in bytes, of a number or words.

    >>> bytes_of("1.5GB"), bytes_of("2 MiB"), bytes_of(7)
    (1500000000, 2097152, 7)

    Raises:
        LoadError: no size.
    """
    text = str(size).strip().lower()
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text)
    if isinstance(size, bool) or found is None or found[2] not in SIZES:
        raise LoadError(f"{size!r} is no amount of memory: give bytes, or words such as '2GB' or '512MiB'.", size=size)
    return int(Fraction(found[1]) * SIZES[found[2]])


def visitors(found: DeviceMap, units: Mapping[str, Unit]) -> list[Unit]:
    """What comes to the first device and goes; the host looks up what is outside of layers where it lies on disk."""
    return [unit for name, unit in units.items() if found.offloaded(name) and (name != OUTSIDE or found.main != "cpu")]


def largest(found: DeviceMap, units: Mapping[str, Unit], count: int) -> list[int]:
    """The bytes of the largest units that come and go."""
    return sorted((unit.bytes for unit in visitors(found, units)), reverse=True)[:count]


def check_limits(found: DeviceMap, units: Mapping[str, Unit], limits: Limits) -> None:
    """Refuse limits under which what comes and goes has no room, or the disk too little."""
    room = limits.get(found.main, 0)
    most = max(visitors(found, units), key=lambda unit: unit.bytes, default=None)
    if most is not None and most.bytes > room:
        raise LoadError(
            f"max_memory gives {found.main!r} {room:,} bytes, and {most.name!r} alone needs {most.bytes:,} there "
            "when its turn comes. Give more, or load in a narrower dtype.",
            needed=most.bytes,
            given=room,
        )
    on_disk = sum(unit.bytes for name, unit in units.items() if found.kept[name] == "disk")
    if on_disk > limits.get("disk", on_disk):
        raise LoadError(
            f"max_memory gives 'disk' {limits['disk']:,} bytes, and {on_disk:,} find no room elsewhere. Give more.",
            needed=on_disk,
            given=limits["disk"],
        )
