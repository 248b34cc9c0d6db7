"""Maps of devices that accelerate computes: whole layers, first devices first."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import nn

from mi_core.device_maps import OUTSIDE, DeviceMap, Limits, Unit, largest, place_name

__all__ = ["computed", "free_now"]


class Whole(nn.Module):
    """A unit as accelerate sees it, never split."""


def computed(kind: str, units: Mapping[str, Unit], limits: Limits) -> dict[str, str]:
    """Accelerate's map, with room on the first device for the two largest layers that come and go.

    Where two have none, or would take that of the embedding, for one: the next layer then comes when one has gone.
    """
    one, two = (outside_where_it_fits(kind, units, limits, guests) for guests in (1, 2))
    return two if two[OUTSIDE] == one[OUTSIDE] and excess(two, units, limits, 2) <= 0 else one


def free_now() -> dict[str, int]:
    """What accelerate would fill where nobody sets limits: what is free, but for a tenth of a single accelerator."""
    from accelerate.utils.modeling import get_max_memory  # type: ignore[import-untyped]

    free = {place_name(key): int(size) for key, size in get_max_memory().items()}
    accelerators = [place for place in free if place not in ("cpu", "disk")]
    return {place: size * 9 // 10 if accelerators == [place] else size for place, size in free.items()}


def outside_where_it_fits(kind: str, units: Mapping[str, Unit], limits: Limits, guests: int) -> dict[str, str]:
    """A map with room for so many layers that come.

    accelerate fills devices in order and never goes back, so what is outside of layers goes last where it finds no room
    on the first.
    """
    first = with_room(kind, units, limits, guests)
    if first[OUTSIDE] == next(iter(limits), None):
        return first
    rest = {name: unit for name, unit in units.items() if name != OUTSIDE}
    last = with_room(kind, {**rest, OUTSIDE: units[OUTSIDE]}, limits, guests)
    return last if offloaded_bytes(last, units) < offloaded_bytes(first, units) else first


def with_room(kind: str, units: Mapping[str, Unit], limits: Limits, guests: int) -> dict[str, str]:
    """Accelerate's map; it leaves room for what comes later than the layer that it looks at, we for all that comes."""
    own = dict(limits)
    while True:
        kept = allotted(kind, units, own)
        over, main = excess(kept, units, limits, guests), DeviceMap(kept).main
        if over <= 0 or main not in kept.values():
            return kept
        own[main] = max(0, min(own[main], limits[main]) - over)


def excess(kept: Mapping[str, str], units: Mapping[str, Unit], limits: Limits, guests: int) -> int:
    """By how many bytes what stays on the first device, and the largest units that come, are too many for it."""
    found = DeviceMap(kept)
    held = sum(unit.bytes for name, unit in units.items() if kept[name] == found.main)
    return held + sum(largest(found, units, guests)) - limits.get(found.main, 0)


def offloaded_bytes(kept: Mapping[str, str], units: Mapping[str, Unit]) -> int:
    """How much comes and goes in each pass."""
    found = DeviceMap(kept)
    return sum(unit.bytes for name, unit in units.items() if found.offloaded(name))


def allotted(kind: str, units: Mapping[str, Unit], limits: Limits) -> dict[str, str]:
    """Accelerate's map over units in their order."""
    # takes two seconds, and only those who want a map pay for it
    from accelerate.utils.modeling import get_balanced_memory, infer_auto_device_map

    skeleton = skeleton_of(units)
    # accelerate calls accelerators by number, and takes the disk for endless
    asked = {numbered(place): size for place, size in limits.items() if place != "disk"}
    logging.getLogger("accelerate.utils.modeling").addFilter(no_warning)
    if kind != "sequential":
        asked = get_balanced_memory(skeleton, asked, no_split_module_classes=["Whole"])
    found = infer_auto_device_map(skeleton, asked, no_split_module_classes=["Whole"], clean_result=False)
    places = {}
    for name in units:
        inside = name.replace(".", "_")
        places[name] = place_name(next(device for key, device in found.items() if key in (inside, "")))
    return places


def no_warning(_: logging.LogRecord) -> bool:
    """Keep accelerate from warning of devices that are planned for and not here: loading refuses them in words."""
    return False


def skeleton_of(units: Mapping[str, Unit]) -> nn.Module:
    """Modules of the units' sizes, without numbers; what is tied is one parameter."""
    skeleton, made = nn.Module(), dict[str, nn.Parameter]()
    for name, unit in units.items():
        part = Whole()
        for at, (source, size) in enumerate(zip(unit.sources, unit.sizes, strict=True)):
            if source not in made:
                made[source] = nn.Parameter(torch.empty(size, dtype=torch.uint8, device="meta"), requires_grad=False)
            part.register_parameter(f"p{at}", made[source])
        skeleton.add_module(name.replace(".", "_"), part)
    return skeleton


def numbered(place: str) -> int | str:
    """A place as accelerate calls it."""
    return int(place.partition(":")[2]) if ":" in place and not place.startswith("mps") else place.partition(":")[0]
