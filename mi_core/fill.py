"""Putting a checkpoint's tensors into a module: every tensor used or dropped on purpose, every parameter filled."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

import torch
from torch import Tensor, nn

from mi_core.blueprint import Blueprint, Weight, only
from mi_core.errors import BrokenPlugin, MissingTensors, NotLoaded, TensorMismatch, UnusedTensors
from mi_core.tensors import TensorIndex

__all__ = ["check_loaded", "fill", "folded", "gaps", "slots"]

SHOWN: Final = 12


def fill(
    module: nn.Module,
    blueprint: Blueprint,
    tensors: TensorIndex,
    *,
    family: str,
    dtype: torch.dtype,
    device: torch.device,
    ignore: Collection[str] = (),
    change: Callable[[str, Tensor], Tensor] | None = None,
) -> tuple[str, ...]:
    """Assign a checkpoint's tensors to the parameters of a module, frozen; returns the names that ``ignore`` left out.

    On the CPU and in the checkpoint's own dtype a parameter is a view of the file; otherwise it is converted once.
    ``change`` makes of each what is held in its place.

    Raises:
        MissingTensors: a parameter whose tensors the checkpoint lacks.
        UnusedTensors: a tensor that goes nowhere and that nobody dropped on purpose.
        TensorMismatch: a tensor whose shape or kind is not the parameter's; the message gives both.
        BrokenPlugin: the blueprint does not fit its own backend.
    """
    places = slots(module)
    ignored = check_checkpoint(places, blueprint, tensors, family, ignore)
    for name, weight in blueprint.weights.items():
        value = viewed(name, weight, tensors)
        check_value(name, weight, value, places[name], tensors)
        own = converted(value, kept_dtype(value, weight, dtype), device)
        if change is not None:
            own = change(name, own)
            own = own.clone() if own is value else own  # a view would keep the file's pages of all that was changed
        assign(module, name, own)
        tensors.let_go(0 if own is value else value.nbytes)
    tie(module, blueprint)
    check_loaded(module, family)
    return ignored


def check_checkpoint(
    places: Mapping[str, Tensor], blueprint: Blueprint, tensors: TensorIndex, family: str, ignore: Collection[str]
) -> tuple[str, ...]:
    """Everything that can be said before a number is read; returns the names that ``ignore`` left out."""
    check_blueprint(places, blueprint, family)
    ignored = check_names(blueprint, tensors, family, ignore)
    check_shapes(places, blueprint, tensors, family)
    return ignored


def kept_dtype(value: Tensor, weight: Weight, dtype: torch.dtype) -> torch.dtype:
    """The type of a parameter in a model of some dtype: whole numbers keep theirs, wide ones are float32 at least."""
    if not value.is_floating_point():
        return value.dtype
    return torch.promote_types(dtype, torch.float32) if weight.wide else dtype


def slots(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by its path, tied ones under each of their names."""
    return dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))


def assign(module: nn.Module, name: str, value: Tensor, *, trainable: bool = False) -> None:
    """Put a tensor in the place of a parameter or buffer, without a copy."""
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    if leaf in owner._buffers:
        owner._buffers[leaf] = value
    else:
        owner._parameters[leaf] = nn.Parameter(value, requires_grad=trainable and value.is_floating_point())


def tie(module: nn.Module, blueprint: Blueprint) -> None:
    """Let tied parameters be one object."""
    for name, target in blueprint.tie.items():
        path, _, leaf = name.rpartition(".")
        module.get_submodule(path)._parameters[leaf] = module.get_parameter(target)


def check_loaded(module: nn.Module, family: str, *, offloaded: Collection[str] = ()) -> None:
    """Refuse a module that still has empty places, but for those that are filled for each call.

    torch on the CPU multiplies by a meta tensor without an error and returns garbage, so this is checked once for all.
    """
    empty = [name for name, tensor in slots(module).items() if tensor.is_meta and name not in offloaded]
    if empty:
        raise NotLoaded(
            f"{family}: {len(empty)} parameters hold no numbers yet: {listing(empty)}. Load a checkpoint with mi.load, "
            "or make a model with mi.build.",
            names=tuple(empty),
        )


def check_blueprint(places: Mapping[str, Tensor], blueprint: Blueprint, family: str) -> None:
    """Every parameter has one source, and every source has a parameter."""
    promised = blueprint.weights.keys() | blueprint.tie.keys()
    for what, names in (
        ("has parameters that its weight map leaves out", places.keys() - promised),
        ("maps weights to parameters that its backend lacks", promised - places.keys()),
        ("both ties and maps the parameters", blueprint.weights.keys() & blueprint.tie.keys()),
        ("ties to parameters that it does not map:", set(blueprint.tie.values()) - blueprint.weights.keys()),
    ):
        if names:
            raise BrokenPlugin(f"the family {family!r} {what} {listing(names)}.", family=family, names=tuple(names))


def check_names(blueprint: Blueprint, tensors: TensorIndex, family: str, ignore: Collection[str]) -> tuple[str, ...]:
    """Nothing missing, nothing left over; returns what ``ignore`` (names or patterns) left out."""
    missing, left = gaps(blueprint, tensors)
    ignored = tuple(name for name in left if matches(name, ignore))
    left = [name for name in left if name not in ignored]
    if missing:
        extra = f" Unused: {listing(left)}." if left else ""
        raise MissingTensors(
            f"{tensors.where}: {number(missing, 'tensor')} that the family {family!r} needs under this config "
            f"{'is' if len(missing) == 1 else 'are'} not in the checkpoint: {listing(missing)}.{extra}",
            names=tuple(missing),
            family=family,
        )
    if left:
        raise UnusedTensors(
            f"{tensors.where}: {number(left, 'tensor')} of the checkpoint {'was' if len(left) == 1 else 'were'} not "
            f"used: {listing(left)}. The family {family!r} has no place for them under this config; if you know that "
            "they do not matter, accept them with ignore_tensors=[...] (names or patterns).",
            names=tuple(left),
            family=family,
        )
    if idle := [pattern for pattern in ignore if not any(fnmatch.fnmatchcase(name, pattern) for name in ignored)]:
        raise UnusedTensors(
            f"{tensors.where}: ignore_tensors names {idle[0]!r}, but no left-over tensor is called so"
            f"{' (the family uses it)' if idle[0] in wanted(blueprint) else ''}.",
            names=tuple(idle),
            family=family,
        )
    return ignored


def gaps(blueprint: Blueprint, tensors: TensorIndex) -> tuple[list[str], list[str]]:
    """Tensors that the checkpoint lacks, and tensors that are neither used nor dropped."""
    needed = wanted(blueprint)
    left = [name for name in tensors if name not in needed and not matches(name, blueprint.dropped)]
    return [name for name in needed if name not in tensors], left


def wanted(blueprint: Blueprint) -> set[str]:
    """The tensors that a blueprint uses."""
    return {name for weight in blueprint.weights.values() for name in weight.names}


def check_shapes(places: Mapping[str, Tensor], blueprint: Blueprint, tensors: TensorIndex, family: str) -> None:
    """Compare the shapes of plain renames before anything is read, so that all are listed at once."""
    wrong = {
        weight.names[0]: (tensors[weight.names[0]].shape, tuple(places[name].shape))
        for name, weight in blueprint.weights.items()
        if weight.view is only and tensors[weight.names[0]].shape != tuple(places[name].shape)
    }
    if wrong:
        lines = [f"{name} is {list(seen)}, the config implies {list(want)}" for name, (seen, want) in wrong.items()]
        more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        raise TensorMismatch(
            f"{tensors.where}: {number(lines, 'tensor')} of another shape than the family {family!r} reads from the "
            f"config: {'; '.join(lines[:SHOWN])}{more}. Config and weights do not belong together.",
            shapes=wrong,
            family=family,
        )


def viewed(name: str, weight: Weight, tensors: TensorIndex) -> Tensor:
    """One parameter's numbers, out of the tensors that they come from."""
    parts = [tensors.tensor(part) for part in weight.names]
    try:
        return weight.view(*parts)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        shapes = ", ".join(f"{part} {list(tensors[part].shape)}" for part in weight.names)
        raise TensorMismatch(
            f"{tensors.where}: {name} cannot be taken from {shapes}: {error}.", name=name, names=weight.names
        ) from error


def check_value(name: str, weight: Weight, value: Tensor, place: Tensor, tensors: TensorIndex) -> None:
    """The numbers have the parameter's shape, and are of its kind."""
    if value.shape != place.shape:
        seen = ", ".join(f"{part} {list(tensors[part].shape)}" for part in weight.names)
        raise TensorMismatch(
            f"{tensors.where}: {name} needs {list(place.shape)} and gets {list(value.shape)} from {seen}.",
            name=name,
            shapes={name: (tuple(value.shape), tuple(place.shape))},
        )
    if value.is_floating_point() != place.is_floating_point() or value.is_complex():
        raise TensorMismatch(
            f"{tensors.where}: {', '.join(weight.names)} holds {value.dtype}, {name} needs {place.dtype}.",
            name=name,
            dtypes=(value.dtype, place.dtype),
        )


def converted(value: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """In the wanted type and place; itself where it is both already."""
    if value.is_meta:  # a view that lost the numbers: `check_loaded` names it
        return value
    return value.to(device=device, dtype=dtype)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is one of these or fits one of these patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def number(things: Collection[object], noun: str) -> str:
    """``"1 tensor"``, ``"4 tensors"``."""
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def listing(names: Iterable[str]) -> str:
    """Names for a message: numbers folded, and not too many."""
    lines = folded(names)
    more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return ", ".join(lines[:SHOWN]) + more


def folded(names: Iterable[str]) -> list[str]:
    """Names that differ in one number only, as one line.

    >>> folded(["h.0.w", "h.1.w", "h.2.w", "h.2.b", "h.4.b", "end"])
    ['end', 'h.{0..2}.w', 'h.{2,4}.b']
    """
    rows = {tuple(re.split(r"(?<=\.)(\d+)(?=\.|$)", f".{name}")) for name in names}
    for place in range(1, max((len(row) for row in rows), default=0), 2):
        groups: dict[tuple[str, ...], list[int]] = {}
        for row in rows:
            if place < len(row):
                groups.setdefault((*row[:place], "", *row[place + 1 :]), []).append(int(row[place]))
        rows = {row for row in rows if place >= len(row)} | {
            (*row[:place], ranges(sorted(found)), *row[place + 1 :]) for row, found in groups.items()
        }
    return sorted("".join(row).removeprefix(".") for row in rows)


def ranges(numbers: list[int]) -> str:
    """``[3]`` as ``3``, ``[0, 1, 2, 5]`` as ``{0..2,5}``."""
    parts: list[list[int]] = []
    for value in numbers:
        if parts and value == parts[-1][1] + 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    text = ",".join(f"{first}" if first == last else f"{first}..{last}" for first, last in parts)
    return text if len(numbers) == 1 else f"{{{text}}}"
