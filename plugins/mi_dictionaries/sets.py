"""Several dictionaries that belong together: one for each layer, or the layers of a cross-layer transcoder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.dictionaries import Dictionary
from mi_core.errors import BadConfig, ValueMismatch
from mi_dictionaries.about import About
from mi_dictionaries.features import Features

__all__ = ["DictionarySet"]

LAYER = re.compile(r"^blocks\.(\d+)\.")


@dataclass(frozen=True, eq=False)
class DictionarySet(Mapping[int, Dictionary]):
    """Dictionaries by the layer that they read.

    What is decoded at a point is the sum over all that write there, so that a cross-layer transcoder is the set of its
    layers: each reads one point and writes that layer's and every later one's, and only the first of its writes has a
    bias.
    """

    dictionaries: tuple[Dictionary, ...]
    about: About = field(default_factory=About)

    def __post_init__(self) -> None:
        if len(self.by_layer) != len(self.dictionaries):
            points = [each.site_in for each in self.dictionaries]
            raise BadConfig(f"a set has one dictionary for each layer; these read {points}.", points=points)

    @cached_property
    def by_layer(self) -> dict[int, Dictionary]:
        """Layer -> the dictionary that reads there."""
        return {layer_of(each.site_in): each for each in self.dictionaries}

    def __getitem__(self, layer: int) -> Dictionary:
        return self.by_layer[layer]

    def __iter__(self) -> Iterator[int]:
        return iter(self.by_layer)

    def __len__(self) -> int:
        return len(self.dictionaries)

    @property
    def reads(self) -> tuple[str, ...]:
        """The points that are encoded, in the order of the dictionaries."""
        return tuple(dict.fromkeys(point for each in self.dictionaries for point in each.reads))

    @property
    def writes(self) -> tuple[str, ...]:
        """The points that are decoded, in the order of the layers."""
        return tuple(dict.fromkeys(point for each in self.dictionaries for point in each.writes))

    @property
    def cross_layer(self) -> bool:
        """Whether one of them writes to several points."""
        return any(len(each.writes) > 1 for each in self.dictionaries)

    def encode(self, xs: Sequence[Tensor] | Float[Tensor, "layer ..."], *, sparse: bool = False) -> list[Features]:
        """The features of each dictionary, from the activations that each reads."""
        self._check(xs)
        return [each.encode(x, sparse=sparse) for each, x in zip(self.dictionaries, xs, strict=True)]  # type: ignore[misc]

    def decode(self, features: Sequence[Features]) -> Float[Tensor, "write ..."]:
        """What stands at each of ``writes``: the sum of what is decoded there."""
        self._check(features)
        return self._summed([each.decode(own) for each, own in zip(self.dictionaries, features, strict=True)])

    def forward(self, xs: Sequence[Tensor] | Float[Tensor, "layer ..."]) -> Float[Tensor, "write ..."]:
        """What they make of activations together, skip connections included."""
        self._check(xs)
        return self._summed([each.forward(x) for each, x in zip(self.dictionaries, xs, strict=True)])

    def _check(self, given: Sequence[object] | Tensor) -> None:
        if len(given) != len(self.dictionaries):
            raise ValueMismatch(
                f"the set has {len(self.dictionaries)} dictionaries, one at each of {list(self.reads)}; it was given "
                f"{len(given)} values.",
                wanted=len(self.dictionaries),
            )

    def _summed(self, parts: Sequence[Tensor]) -> Tensor:
        found: dict[str, Tensor] = {}
        for each, part in zip(self.dictionaries, parts, strict=True):
            own = [part] if len(each.writes) == 1 else part.unbind(-2)
            for point, value in zip(each.writes, own, strict=True):
                found[point] = found[point] + value if point in found else value
        return torch.stack([found[point] for point in self.writes])


def layer_of(point: str) -> int:
    """The layer in a point's name."""
    found = LAYER.match(point)
    if found is None:
        raise BadConfig(f"a set holds dictionaries of layers; {point!r} is in none.", point=point)
    return int(found[1])
