"""How points are named, spelled and matched.

A point is a site in a layer: ``blocks.5.attn.hook_pattern``. Accepted spellings: the last part without ``hook_``;
``mixer`` for whatever mixes positions in the layer; what a site says that it is ``also`` called. ``*`` stands for one
part, ``{2..5}`` and ``{0,3}`` for layers, a lone ``*`` for every point that is not on demand.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from mi_core.errors import UnknownPoint
from mi_core.protocols import ModelShape, Site
from mi_core.provenance import Provenance
from mi_core.vocabulary import LOOKALIKES, STANDARD

__all__ = ["Point", "Points"]

MIXERS = {"mixer": ("attn", "rwkv"), "rwkv": ("mixer",), "attn": ("mixer",)}
"""What a word for the mixer may be called in a site's name."""
OF_CHANNELS = ("hook_resid_mid", "hook_mlp", "mlp.", "ln2")
"""How the names of sites begin that a channel part brings with it."""
BRACES = re.compile(r"^\{(.+)\}$")
RANGE = re.compile(r"^(\d+)\.\.(\d+)$")


@dataclass(frozen=True)
class Point:
    """A site in a layer, or a site outside the layers."""

    name: str
    site: Site
    layer: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Its name, and what else its site may be called."""
        if not self.site.also:
            return (self.name,)
        where = self.name.removesuffix(self.site.name)
        return (self.name, *(f"{where}{other}" for other in self.site.also))


def split_name(name: str) -> list[str]:
    """The parts of a name; dots within braces do not separate.

    >>> split_name("blocks.{2..5}.attn.hook_q")
    ['blocks', '{2..5}', 'attn', 'hook_q']
    """
    return re.findall(r"(?:\{[^}]*\}|[^.{])+", name)


def part_matches(pattern: str, part: str) -> bool:
    """Whether one part of a pattern stands for one part of a name."""
    braces = BRACES.match(pattern)
    if braces is None:
        return fnmatch.fnmatchcase(part, pattern) or fnmatch.fnmatchcase(part, f"hook_{pattern}")
    for choice in braces[1].split(","):
        span = RANGE.match(choice.strip())
        if span and part.isdigit() and int(span[1]) <= int(part) <= int(span[2]):
            return True
        if choice.strip() == part:
            return True
    return False


class Points:
    """Every point of a model, in firing order, found by name or pattern."""

    def __init__(
        self,
        sites: Sequence[Site],
        shape: ModelShape,
        model: str = "model",
        provenance: Provenance | None = None,
    ) -> None:
        self.model = model
        self.provenance = provenance
        self.shape = shape
        self.sites = tuple(sites)
        self.by_name: dict[str, Point] = {}
        self._found: dict[str, frozenset[str]] = {}
        for point in self._in_order():
            self.by_name[point.name] = point

    def _in_order(self) -> Iterator[Point]:
        first = next((i for i, site in enumerate(self.sites) if site.layers is not None), len(self.sites))
        last = max((i for i, site in enumerate(self.sites) if site.layers is not None), default=-1)
        yield from (Point(site.name, site) for site in self.sites[:first] if site.layers is None)
        for layer in range(self.shape.n_layers):
            for site in self.sites[first : last + 1]:
                if site.layers is not None and layer in site.layers:
                    yield Point(f"blocks.{layer}.{site.name}", site, layer)
        yield from (Point(site.name, site) for site in self.sites[first:] if site.layers is None)

    def __iter__(self) -> Iterator[Point]:
        return iter(self.by_name.values())

    def __len__(self) -> int:
        return len(self.by_name)

    @cached_property
    def place(self) -> Mapping[str, int]:
        """Where each point stands in firing order."""
        return {name: place for place, name in enumerate(self.by_name)}

    @cached_property
    def also(self) -> Mapping[str, str]:
        """Every other name of a point, and its own."""
        return {other: point.name for point in self for other in point.names[1:]}

    @cached_property
    def first_in_layers(self) -> int:
        """The place of the first point that is in a layer; -1 where there is none."""
        return next((place for place, point in enumerate(self) if point.layer is not None), -1)

    def in_order(self, names: Iterable[str]) -> list[str]:
        """Names of points in firing order."""
        return sorted(names, key=self.place.__getitem__)

    def extended(self, extra: Iterable[Point]) -> Points:
        """These points and some more (those of inserts), each behind the point that its name starts with."""
        extra = list(extra)
        if not extra:
            return self
        more = Points((), self.shape, self.model, self.provenance)
        for name, point in self.by_name.items():
            more.by_name[name] = point
            for other in extra:
                if other.name.startswith(name + "."):
                    more.by_name[other.name] = other
        for other in extra:
            more.by_name.setdefault(other.name, other)
        more.sites = self.sites
        return more

    def embedding(self, point: Point) -> bool:
        """Whether a point comes before the layers."""
        return point.layer is None and self.place[point.name] < self.first_in_layers

    def find(self, name: str) -> Point:
        """The one point of this name, in any accepted spelling."""
        for candidate in spellings(name):
            if (known := self.also.get(candidate, candidate)) in self.by_name:
                return self.by_name[known]
        raise self._unknown(name)

    def match(self, patterns: str | Iterable[str]) -> list[Point]:
        """The points that a pattern, or a list of patterns, stands for, in firing order."""
        wanted = frozenset[str]()
        for pattern in (patterns,) if isinstance(patterns, str) else tuple(patterns):
            wanted |= self.names_of(pattern)
        return [self.by_name[name] for name in self.in_order(wanted)]

    def names_of(self, pattern: str) -> frozenset[str]:
        """The names that one pattern stands for; looked up once."""
        found = self._found.get(pattern)
        if found is None:
            found = self._found[pattern] = frozenset(self._match_one(pattern))
        return found

    def _match_one(self, pattern: str) -> set[str]:
        if pattern == "*":
            return {point.name for point in self if not point.site.on_demand}
        if not any(mark in pattern for mark in "*?[{"):
            return {self.find(pattern).name}
        found: set[str] = set()
        for candidate in spellings(pattern):
            found |= self._matching(split_name(candidate))
            if found and "mixer" not in split_name(pattern):
                break
        if not found:
            raise self._unknown(pattern)
        return found

    def _matching(self, parts: list[str]) -> set[str]:
        # on-demand sites must be named: no wildcard in their last part
        named = not any(mark in parts[-1] for mark in "*?[")
        if parts[0] == "blocks" and len(parts) > 1:
            self._check_layers(parts[1])
        return {
            point.name
            for point in self
            if (named or not point.site.on_demand)
            and any(
                len(names := name.split(".")) == len(parts)
                and all(part_matches(*pair) for pair in zip(parts, names, strict=True))
                for name in point.names
            )
        }

    def _check_layers(self, part: str) -> None:
        braces = BRACES.match(part)
        for choice in braces[1].split(",") if braces else ():
            if choice.strip().isdigit() and int(choice) >= self.shape.n_layers:
                raise UnknownPoint(
                    f"{self.model} has no layer {choice.strip()} (in {part!r}). {self._layers()}", name=part, closest=[]
                )

    def _layers(self) -> str:
        return f"It has {self.shape.n_layers} layers: 0 to {self.shape.n_layers - 1}."

    def _unknown(self, name: str) -> UnknownPoint:
        why = self._reason(name)
        close = difflib.get_close_matches(name, self.by_name, n=1, cutoff=0.6)
        if not why and close:
            why = f"Did you mean {close[0]!r}?" + "".join(self._neighbours(close[0]))
        if not why:
            why = "List the points of this model with model.hook_points() or 'mi points MODEL'."
        return UnknownPoint(f"{self.model} has no point {name!r}. {why}", name=name, closest=close)

    def _neighbours(self, name: str) -> Iterator[str]:
        for one, other, what in LOOKALIKES:
            here, there = what.split(" / ")
            for own, neighbour, meaning in ((one, other, there), (other, one, here)):
                if f".{name}".endswith(f".{own}") and name.removesuffix(own) + neighbour in self.by_name:
                    yield f" ({neighbour} is {meaning}.)"

    def _reason(self, name: str) -> str:
        parts = split_name(name)
        if parts[0] != "blocks" and (inner := {site.name for site in self.sites} & set(spellings(name))):
            return f"That site is in the layers: name it 'blocks.*.{min(inner)}'."
        if parts[0] != "blocks" or len(parts) < 3:
            return ""
        if parts[1].isdigit() and int(parts[1]) >= self.shape.n_layers:
            return self._layers()
        site = ".".join(parts[2:])
        if site.endswith("resid_mid") and self._has_parallel():
            return "Its attention and MLP run in parallel, so there is no stream between them."
        here = {each.name for each in self.sites}
        alone = "hook_attn_out" in here and not any(name.startswith(OF_CHANNELS) for name in here)
        if alone and site.startswith(OF_CHANNELS):
            mixers = "recurrent mixers" if "mixer.hook_state" in here else "attention"
            return f"Its layers are {mixers} alone: they have no MLP, and no stream before one."
        if site in STANDARD:
            return f"{site!r} is {STANDARD[site].meaning}; this architecture (or this layer) does not have it."
        return ""

    def _has_parallel(self) -> bool:
        return any(rule.kind == "parallel" for rule in self.shape.residual)


def spellings(name: str) -> Iterator[str]:
    """The names that a spelling may stand for: with ``hook_``, and with each word for the mixer."""
    parts = split_name(name)
    heads = [parts]
    for index, part in enumerate(parts):
        heads += [[*parts[:index], other, *parts[index + 1 :]] for other in MIXERS.get(part, ())]
    for head in heads:
        yield ".".join(head)
        if head and not head[-1].startswith("hook_"):
            yield ".".join([*head[:-1], f"hook_{head[-1]}"])
