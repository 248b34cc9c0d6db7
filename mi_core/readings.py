"""What families make of a checkpoint that may not be their own, and whether two of them make the same of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Any

import torch

from mi_core import plugins
from mi_core.blueprint import Blueprint, Weight
from mi_core.config import Config
from mi_core.errors import MiError
from mi_core.families import GROUP, blueprint_of, empty_backend
from mi_core.fill import check_blueprint, folded, gaps, listing, matches, slots
from mi_core.inert import is_inert
from mi_core.tensors import TensorIndex

__all__ = ["Reading", "Trial", "differences", "same"]

SHOWN = 3


@dataclass(frozen=True)
class Reading:
    """One family's strict reading."""

    family: plugins.Plugin
    config: Config
    """As this family read it."""
    blueprint: Blueprint
    unread: Mapping[str, Any]
    """Keys that may change the numbers and that it did not read, with their values."""
    misplaced: tuple[str, ...]
    """Tensors that it lacks, has no place for, or needs in another shape, in words."""
    distance: tuple[int, int]
    """How many kinds of tensors have no place, and how many keys or shapes do not fit: less is closer."""

    @property
    def possible(self) -> bool:
        """Whether it has a place for every tensor, and for every key but switches that are off, which ask nothing."""
        return not self.misplaced and all(value is False for value in self.unread.values())


@dataclass(frozen=True)
class Trial:
    """A checkpoint to be read, and what may stay unread."""

    values: Mapping[str, Any]
    where: str
    tensors: TensorIndex
    ignore_config: Collection[str] = ()
    ignore_tensors: Collection[str] = ()

    def reading(self, name: str) -> Reading | None:
        """What the family of that name makes of it; None where it refuses the config, or is broken."""
        config = Config(self.values, where=self.where)
        try:
            family = plugins.plugin(GROUP, name)
            blueprint = blueprint_of(family, config, self.tensors)
            missing, left = gaps(blueprint, self.tensors)
            left = [tensor for tensor in left if not matches(tensor, self.ignore_tensors)]
            wrong = [] if missing else self.misshapen(family, blueprint)
        except MiError:
            return None
        # What a family says of keys that it leaves unread holds for its own checkpoints, not for a stranger's.
        keys = {key: value for key, value in config.unread().items() if not is_inert(key, value, {})}
        unread = {key: value for key, value in keys.items() if key not in self.ignore_config}
        words = [f"the checkpoint lacks {listing(missing)}"] if missing else []
        words += [f"there is no place for {listing(left)}"] if left else []
        words += [f"the config implies other shapes for {listing(wrong)}"] if wrong else []
        distance = len(folded([*missing, *left])), len(folded(wrong)) + len(unread)
        return Reading(family, config, blueprint, unread, tuple(words), distance)

    def misshapen(self, family: plugins.Plugin, blueprint: Blueprint) -> list[str]:
        """Tensors whose shapes do not give their parameters', by the views of the blueprint on empty ones."""
        _, module = empty_backend(family, blueprint)
        places = slots(module)
        check_blueprint(places, blueprint, family.name)
        return [
            weight.names[0]
            for parameter, weight in blueprint.weights.items()
            if self.shape(weight) != tuple(places[parameter].shape)
        ]

    def shape(self, weight: Weight) -> tuple[int, ...] | None:
        """The shape that a weight has from the checkpoint's; None where its view does not fit."""
        infos = [self.tensors[name] for name in weight.names]
        try:
            return tuple(weight.view(*(torch.empty(i.shape, dtype=i.dtype, device="meta") for i in infos)).shape)
        except (RuntimeError, ValueError, IndexError, TypeError):
            return None


def same(one: Blueprint, other: Blueprint) -> bool:
    """Whether two readings compute the same from the same tensors, as far as can be known; in doubt they do not."""
    return (
        one.spec is not None
        and one.spec == other.spec
        and one.tie == other.tie
        and one.weights.keys() == other.weights.keys()
        and all(source(weight) == source(other.weights[name]) for name, weight in one.weights.items())
    )


def source(weight: Weight) -> tuple[Any, ...]:
    """Where a weight comes from, as a value."""
    return weight.names, weight.wide, written(weight.view)


def written(view: Any) -> Any:
    """A function as a value: the code that it runs and what it closes over; anything else is itself."""
    if isinstance(view, partial):
        return "partial", written(view.func), view.args, view.keywords
    if is_dataclass(view):
        return type(view), [written(getattr(view, part.name)) for part in fields(view)]
    if not hasattr(view, "__code__"):
        return view
    closed = [written(cell.cell_contents) for cell in view.__closure__ or ()]
    return view.__module__, view.__code__, closed, view.__defaults__, getattr(view, "__self__", None)


def differences(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Where two specs differ: the path, and both values in short.

    >>> list(differences(Weight(("a",)), Weight(("b",))))
    [('names.0', "'a' or 'b'")]
    """
    if is_dataclass(one) and type(one) is type(other):
        for part in fields(one):
            yield from differences(getattr(one, part.name), getattr(other, part.name), f"{path}{part.name}.")
    elif isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        for index, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            yield from differences(mine, theirs, f"{path}{index}.")
    elif one != other:
        yield path.removesuffix("."), f"{short(one)} or {short(other)}"


def short(value: object) -> str:
    """A value for a message: one made of parts by its kind alone."""
    if is_dataclass(value) or callable(value):
        return getattr(value, "__name__", type(value).__name__)
    return repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:37]}..."
