"""Inserts in a run: when the module is called, with what, and where its results go."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mi_core.editing import Intervention
from mi_core.errors import HookContractBroken, ReadOnlyPoint, SpecError
from mi_core.interventions import Add
from mi_core.layout import Layout
from mi_core.names import Point, Points
from mi_core.prompts import RowText
from mi_core.protocols import Tap
from mi_core.selection import Selection, select
from mi_core.spec import Insert, InsertModule

__all__ = ["BoundInsert", "InsertCall"]


@dataclass(frozen=True, eq=False)
class BoundInsert:
    """An insert whose points are known."""

    module: InsertModule
    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    points: tuple[Point, ...]
    """Its own points, ``NAME.site``, in the layer in which it is called."""
    selections: Mapping[str, Selection | None] = field(default_factory=dict)
    """Where it writes, at each of ``writes``; None: nowhere in this call."""
    notes: tuple[str, ...] = ()
    """What it said of the model."""

    @property
    def across_positions(self) -> bool:
        """Whether values at a position depend on other positions: the module says so."""
        return bool(getattr(self.module, "across_positions", False))

    @classmethod
    def of(cls, entry: object, points: Points, layout: Layout, texts: Sequence[RowText]) -> BoundInsert:
        """Find what it reads and writes, and where; refuse writes that come before what it reads."""
        assert isinstance(entry, Insert)
        module = entry.module
        reads = [points.find(name) for name in module.reads]
        writes = [points.find(name) for name in module.writes]
        order = {name: index for index, name in enumerate(points.by_name)}
        if not reads:
            raise SpecError(f"the insert {entry.name!r} reads nothing, so it can never be called.", name=entry.name)
        last = max(reads, key=lambda point: order[point.name])
        for point in writes:
            if order[point.name] < order[last.name]:
                raise SpecError(
                    f"the insert {entry.name!r} writes {point.name!r}, which comes before {last.name!r}, which it "
                    "reads. Write at the same point or behind it.",
                    name=entry.name,
                )
            if point.site.read_only:
                raise ReadOnlyPoint(f"{point.name!r} cannot be written: {point.site.read_only}.", point=point.name)
        own = tuple(
            Point(f"{entry.name}.{site.name}", dataclasses.replace(site, layers=None), last.layer)
            for site in module.sites
        )
        taken = [point.name for point in own if point.name in points.by_name]
        if taken:
            raise SpecError(f"the insert {entry.name!r} would define points that exist: {taken}.", names=taken)
        if hasattr(module, "check"):
            given = (*zip(module.reads, reads, strict=True), *zip(module.writes, writes, strict=True))
            module.check({name: point.site for name, point in given})
        selections = {point.name: select(entry.selectors, point, layout, texts, model=points.model) for point in writes}
        read, written = (tuple(point.name for point in kind) for kind in (reads, writes))
        notes: tuple[str, ...] = ()
        if hasattr(module, "check_model") and points.provenance is not None:
            notes = tuple(module.check_model(points.provenance))
        return cls(module, entry.name, read, written, own, selections, notes)

    def within(self, part: Callable[[Selection], Selection | None]) -> BoundInsert:
        """The same in a call that covers a part of the rows or of their positions."""
        selections = {name: None if held is None else part(held) for name, held in self.selections.items()}
        return dataclasses.replace(self, selections=selections)


@dataclass(eq=False)
class InsertCall:
    """One call of an insert in one run: values come in as points fire, results go out."""

    bound: BoundInsert
    tap: Tap
    values: dict[str, Tensor] = field(default_factory=dict)
    results: dict[str, Tensor | Intervention | None] | None = None

    def step(self, name: str) -> Callable[[Tensor], Tensor]:
        """What the insert does at one point."""

        def act(value: Tensor) -> Tensor:
            if name in self.bound.reads:
                self.values[name] = value
                if self.results is None and len(self.values) == len(set(self.bound.reads)):
                    self._call()
            if name not in self.bound.writes:
                return value
            selection = self.bound.selections[name]
            if selection is None or selection.empty:
                return value
            return selection.write(value, selection.gather(self._result(name, value))[0])

        return act

    def _call(self) -> None:
        here = home_of(self.bound.module) or next(reversed(self.values.values())).device
        # values and results are keyed by the names that the module gave in ``reads`` and ``writes``
        given = dict(zip(self.bound.module.reads, self.bound.reads, strict=True))
        results = self.bound.module({name: self.values[known].to(here) for name, known in given.items()}, self.tap)
        if not isinstance(results, Mapping) or not all(is_result(value) for value in results.values()):
            raise HookContractBroken(
                f"the insert {self.bound.name!r} returned {type(results).__name__}, not a mapping from the points that "
                "it writes to tensors (or Add(tensor), or None).",
                name=self.bound.name,
            )
        self.results = dict(results)

    def _result(self, name: str, value: Tensor) -> Tensor:
        given = dict(zip(self.bound.writes, self.bound.module.writes, strict=True))
        results = self.results or {}
        if results.keys().isdisjoint({given[name], name}):
            raise HookContractBroken(
                f"the insert {self.bound.name!r} returned {sorted(results)}, but writes {given[name]!r}.", point=name
            )
        result = results.get(given[name], results.get(name))
        if result is None:
            return value
        new = result.value if isinstance(result, Add) else result
        assert isinstance(new, Tensor)
        if new.shape != value.shape:
            raise HookContractBroken(
                f"the insert {self.bound.name!r} returned {list(new.shape)} for {name!r}, which is "
                f"{list(value.shape)}.",
                point=name,
            )
        return value + result.scale * new.to(value) if isinstance(result, Add) else new.to(value)


def is_result(value: object) -> bool:
    """Whether an insert may return this for a point."""
    if isinstance(value, Add):
        return isinstance(value.value, Tensor) and value.norm is None
    return value is None or isinstance(value, Tensor)


def home_of(module: object) -> torch.device | None:
    """The device of an insert's weights; None where it has none."""
    first = next(module.parameters(), None) if isinstance(module, nn.Module) else None
    return None if first is None else first.device
