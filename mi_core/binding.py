"""A spec made concrete for one model and one input: which entries act at which point, on which part of it.

Everything that can be refused is refused here, before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from jaxtyping import Int
from torch import Tensor

from mi_core.edges import Knockout
from mi_core.editing import Intervention
from mi_core.errors import ReadOnlyPoint, SelectorError, SpecError
from mi_core.inserting import BoundInsert
from mi_core.interventions import Apply, Replace
from mi_core.layout import Layout
from mi_core.names import Point, Points
from mi_core.placing import AS_COMPUTED, Placement
from mi_core.prompts import RowText
from mi_core.scene import Scene
from mi_core.selection import Selection, own_dims, select
from mi_core.selectors import Selector, chosen
from mi_core.spec import Capture, Edit, HookSpec
from mi_core.told import check_told

__all__ = ["Binding", "BoundCapture", "BoundEdit", "bind"]


@dataclass(frozen=True, eq=False)
class BoundEdit:
    """An intervention at one point."""

    point: Point
    intervention: Intervention
    selection: Selection

    def scene(self, layout: Layout, rows: Tensor, whole: Layout) -> Scene:
        """What it sees in a call over some of the rows."""
        part = self.selection if layout is whole else self.selection.rows(rows).behind(layout.skipped)
        own = own_dims(without_layer(self.intervention.selectors), self.point)
        return Scene(self.point, own, part, layout, rows, whole, self.selection)

    def step(self, layout: Layout, rows: Tensor, whole: Layout) -> Callable[[Tensor], Tensor] | None:
        """What it does in that call; None where nothing is selected in these rows."""
        scene = self.scene(layout, rows, whole)
        return None if scene.selection.empty else partial(self.intervention.edit, scene=scene)


@dataclass(frozen=True, eq=False)
class BoundCapture:
    """A capture at one point."""

    point: Point
    selectors: Mapping[str, Selector]
    selection: Selection
    placement: Placement = AS_COMPUTED


@dataclass(frozen=True, eq=False)
class Binding:
    """A spec for one model and one input."""

    spec: HookSpec
    points: Points
    """The model's points and those of inserts."""
    layout: Layout
    of_model: Points
    """The model's points alone."""
    steps: dict[str, list[BoundEdit | BoundInsert]] = field(default_factory=dict)
    cuts: dict[str, list[BoundEdit]] = field(default_factory=dict)
    after: dict[str, BoundCapture] = field(default_factory=dict)
    before: dict[str, BoundCapture] = field(default_factory=dict)
    inserts: list[BoundInsert] = field(default_factory=list)
    spellings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What was asked for, and the points that it stood for, in the layers that were selected."""

    @property
    def asked(self) -> list[str]:
        """Every point at which something acts, in firing order."""
        return self.points.in_order({*self.steps, *self.cuts, *self.after, *self.before})

    @property
    def last_layer(self) -> int:
        """The last layer at which something acts; -1 for none, n_layers for what comes behind the layers."""
        n_layers, last = self.points.shape.n_layers, -1
        for name in self.asked:
            point = self.points.by_name[name]
            if point.layer is not None:
                last = max(last, point.layer)
            elif not self.points.embedding(point):
                last = n_layers
        return last

    def kernel(self, layer: int) -> str:
        """How a layer runs: fused, or the sites that ask for explicit arithmetic."""
        if looked_at := self.looked_at.get(layer):
            return f"explicit ({', '.join(looked_at)})"
        cut = any(self.points.by_name[name].layer == layer for name in self.cuts)
        return "fused, with cut edges" if cut else "fused"

    @cached_property
    def looked_at(self) -> dict[int, list[str]]:
        """The sites, by layer, that ask for explicit arithmetic."""
        found: dict[int, list[str]] = {}
        for name in dict.fromkeys((*self.steps, *self.after, *self.before)):
            point = self.points.by_name[name]
            # the norms' sites are computed beside the path unless they are written
            beside = name not in self.steps and point.site.name.endswith(("hook_scale", "hook_normalized"))
            if point.layer is not None and point.site.replaces_kernel and not beside:
                found.setdefault(point.layer, []).append(name.removeprefix(f"blocks.{point.layer}."))
        return found

    @property
    def needs_all_rows(self) -> bool:
        """Whether something looks across rows."""
        return any(edit.needs_all_rows for edit in self.edits())

    @property
    def notes(self) -> tuple[str, ...]:
        """What inserts said of the model."""
        return tuple(note for insert in self.inserts for note in insert.notes)

    @property
    def holds_functions(self) -> bool:
        """Whether a function of the user's is applied."""
        return any(isinstance(edit, Apply) for edit in self.edits())

    def edits(self) -> Iterator[Intervention]:
        """Every intervention but those that cut edges."""
        return (step.intervention for steps in self.steps.values() for step in steps if isinstance(step, BoundEdit))


def bind(spec: HookSpec, points: Points, layout: Layout, texts: Sequence[RowText]) -> Binding:
    """Resolve a spec; raises a SpecError that says what failed, what was seen and what to do."""
    inserts = [
        BoundInsert.of(entry, points, layout, texts) for entry in spec.entries if not isinstance(entry, Capture | Edit)
    ]
    names = [insert.name for insert in inserts]
    if len(set(names)) != len(names):
        raise SpecError(f"two inserts are called the same ({names}): give each its own name.", names=names)
    of_run = points.extended(point for insert in inserts for point in insert.points)
    binding = Binding(spec, of_run, layout, points, inserts=inserts)
    waiting = iter(inserts)
    for entry in spec.entries:
        if isinstance(entry, Capture):
            bind_capture(binding, entry, texts)
        elif isinstance(entry, Edit):
            bind_edit(binding, entry, texts)
        else:
            bound = next(waiting)
            for name in dict.fromkeys((*bound.reads, *bound.writes)):
                binding.steps.setdefault(name, []).append(bound)
    return binding


def matched(binding: Binding, patterns: tuple[str, ...], selectors: Mapping[str, Selector]) -> list[Point]:
    """The points of the patterns, in the layers that are selected."""
    points = binding.points
    kept = found = points.match(patterns)
    if "layer" in selectors:
        layers = chosen(selectors["layer"], points.shape.n_layers, dim="layer", where=points.model)
        kept = [point for point in found if point.layer in layers]
    names = {point.name for point in kept}
    for pattern in patterns:
        stands_for = names & points.names_of(pattern)
        binding.spellings[pattern] = tuple(points.in_order(stands_for.union(binding.spellings.get(pattern, ()))))
    if not kept:
        there = sorted({point.layer for point in found if point.layer is not None})
        raise SelectorError(
            f"layer={selectors['layer']!r} selects none of the points of {', '.join(map(repr, patterns))}, which are "
            f"in the layers {there}.",
            dim="layer",
        )
    return kept


def without_layer(selectors: Mapping[str, Selector]) -> dict[str, Selector]:
    """The selectors over the site's own dims."""
    return {dim: selector for dim, selector in selectors.items() if dim != "layer"}


def bind_capture(binding: Binding, entry: Capture, texts: Sequence[RowText]) -> None:
    """Resolve one capture."""
    entry.placement.check()
    kept = binding.before if entry.before else binding.after
    selectors = without_layer(entry.selectors)
    for point in matched(binding, entry.points, entry.selectors):
        twice = kept.get(point.name)
        if twice is not None and twice.placement != entry.placement:
            raise SelectorError(
                f"{point.name!r} is captured twice, to be kept in different ways ({twice.placement} and "
                f"{entry.placement}). Capture it once.",
                point=point.name,
            )
        if twice is not None and dict(twice.selectors) != own_dims(selectors, point):
            raise SelectorError(
                f"{point.name!r} is captured twice with different selections ({dict(twice.selectors)} and "
                f"{selectors}). Capture what covers both, and read parts with run.at(...).",
                point=point.name,
            )
        selection = select(selectors, point, binding.layout, texts, model=binding.points.model)
        kept[point.name] = BoundCapture(point, own_dims(selectors, point), selection, entry.placement)


def bind_edit(binding: Binding, entry: Edit, texts: Sequence[RowText]) -> None:
    """Resolve one intervention and check that its values fit."""
    entry.check_unchanged()
    edit = entry.intervention
    for point in matched(binding, entry.points, edit.selectors):
        if point.site.read_only:
            raise ReadOnlyPoint(f"{point.name!r} cannot be written: {point.site.read_only}.", point=point.name)
        selection = select(without_layer(edit.selectors), point, binding.layout, texts, model=binding.points.model)
        if point.site.replace_only and not (isinstance(edit, Replace) and edit.within is None):
            raise ReadOnlyPoint(
                f"{point.name!r} takes nothing but Replace with the value of a run: {point.site.replace_only}.",
                point=point.name,
            )
        check_told(edit, point)
        bound = BoundEdit(point, edit, selection)
        if isinstance(edit, Knockout):
            if not point.site.keeps_masked:
                raise SpecError(
                    f"Knockout cuts edges at attention scores; {point.name!r} is {point.site.meaning!r}. Use "
                    "'blocks.*.attn.hook_attn_scores', or Zero() to remove what is there.",
                    point=point.name,
                )
            binding.cuts.setdefault(point.name, []).append(bound)
            continue
        if binding.layout.prompt is None:  # a generation checks against the calls that it makes
            check_fit(bound, binding.layout)
        binding.steps.setdefault(point.name, []).append(bound)


def check_fit(bound: BoundEdit, layout: Layout) -> None:
    """Let the intervention refuse values that do not fit, on a stand-in that takes no memory."""
    site = bound.point.site
    sizes = [layout.size(dim) or site.sizes.get(dim) for dim in site.dims]
    if any(size is None for size in sizes):
        return
    selected = bound.selection.sizes([size for size in sizes if size is not None])
    stand_in = torch.zeros(()).expand(selected)
    rows: Int[Tensor, "batch"] = torch.arange(len(layout.ids))
    bound.intervention.check(stand_in, bound.scene(layout, rows, layout))
