"""Many specs with labelled axes: what a sweep runs, cell by cell.

A grid is data: a function from the values of its axes to a spec. Axes that depend on the model or the input (layers,
heads, positions) are filled in when the sweep knows both.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mi_core.errors import SelectorError
from mi_core.interventions import Add, Intervention, Replace, Zero
from mi_core.labelled import Label
from mi_core.names import Points
from mi_core.spec import HookSpec, intervene

if TYPE_CHECKING:
    from mi_core.layout import Layout
    from mi_core.rows import RowText

__all__ = ["Axis", "Grid", "ablation_grid", "grid", "patch_grid", "steering_grid"]

POSITIONS = ("pos", "query_pos", "key_pos")


@dataclass(frozen=True)
class Axis:
    """The labels of an axis, and the value that each stands for."""

    labels: tuple[Label, ...]
    values: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Grid:
    """Specs over the product of some axes."""

    build: Callable[..., HookSpec]
    """From one value for each axis to a spec; gets ``source=`` too where the grid has one."""
    axes: Mapping[str, Any]
    """Values, a mapping from labels to values, or None for all that the model or the input has."""
    under: HookSpec = field(default_factory=HookSpec)
    """What is done under every cell."""
    points: tuple[str, ...] = ()
    """Where axes of None look up their sizes."""
    source: Any = None
    """A run, or an input that the sweep runs once, capturing what the cells need."""

    def __radd__(self, spec: HookSpec) -> Grid:
        """``spec + grid``: the spec under every cell; the shared trunk is then that edited run."""
        return replace(self, under=spec + self.under)

    def filled(self, points: Points, layout: Layout, texts: Sequence[RowText]) -> dict[str, Axis]:
        """The axes for a model and an input."""
        if "batch" in self.axes:
            raise SelectorError(
                "a grid over 'batch' would give the result two axes of that name: rows have one already. Give yours "
                "another name, mi.grid(lambda row: mi.intervene(point, edit.at(batch=row)), row=[0, 1]).",
                dim="batch",
            )
        return {name: axis_of(name, given, self.points, points, layout, texts) for name, given in self.axes.items()}

    def cells(self, axes: Mapping[str, Axis], source: Any = None) -> list[HookSpec]:
        """One spec for each cell, the last axis fastest."""
        given = {} if source is None else {"source": source}
        return [
            self.under + self.build(**dict(zip(axes, values, strict=True)), **given)
            for values in itertools.product(*(axis.values for axis in axes.values()))
        ]


def grid(build: Callable[..., HookSpec], **axes: Iterable[Any] | Mapping[Label, Any]) -> Grid:
    """A grid that calls ``build`` once for each cell with the values of its axes.

    >>> from mi_core.interventions import Scale
    >>> steps = grid(lambda factor: intervene("hook_embed", Scale(factor)), factor=[0.0, 0.5, 1.0])
    >>> list(steps.axes)
    ['factor']
    """
    kept = {name: dict(values) if isinstance(values, Mapping) else tuple(values) for name, values in axes.items()}
    return Grid(build, kept)


def patch_grid(
    points: str | Iterable[str],
    *,
    source: Any,
    each: Sequence[str] | Mapping[str, Any] = ("layer", "pos"),
    window: int = 1,
) -> Grid:
    """Replace activations by those of ``source`` (a run, or an input), one cell at a time: activation patching.

    ``each`` names dims, or maps a dim to its values or labelled selectors; ``window`` patches blocks of so many
    layers, labelled by their first.

    Source: Meng et al. 2022, "Locating and Editing Factual Associations in GPT".
    """
    return selecting(points, lambda source: Replace(source), each, window, source=source)


def ablation_grid(
    points: str | Iterable[str],
    *,
    intervention: Intervention | None = None,
    each: Sequence[str] | Mapping[str, Any] = ("layer", "head"),
    window: int = 1,
) -> Grid:
    """Write one intervention (`Zero()` if not said) to one part at a time: ablation, or knockout of edges."""
    chosen = Zero() if intervention is None else intervention
    return selecting(points, lambda: chosen, each, window)


def steering_grid(
    points: str | Iterable[str],
    vector: Any,
    *,
    strengths: Sequence[float],
    each: Sequence[str] | Mapping[str, Any] = ("layer",),
    window: int = 1,
    **selectors: Any,
) -> Grid:
    """Add ``strength * vector`` at one place at a time: dose and response."""
    names = named(points)

    def build(strength: float, **cell: Any) -> HookSpec:
        edit = Add(vector, scale=strength).at(**selectors, **narrowing(cell, window))
        return intervene(names, edit)

    return Grid(build, {"strength": tuple(strengths), **each_axes(each)}, points=names)


def selecting(
    points: str | Iterable[str],
    intervention: Callable[..., Intervention],
    each: Sequence[str] | Mapping[str, Any],
    window: int,
    *,
    source: Any = None,
) -> Grid:
    """A grid whose cells write to one part at a time."""
    names = named(points)
    if window < 1:
        raise SelectorError(f"window={window}: a block has at least one layer.", window=window)

    def build(**cell: Any) -> HookSpec:
        given = {"source": cell.pop("source")} if "source" in cell else {}
        return intervene(names, intervention(**given).at(**narrowing(cell, window)))

    axes = each_axes(each)
    if window > 1 and "layer" not in axes:
        raise SelectorError(f"window={window} moves blocks of layers, but the axes are {list(axes)}.", window=window)
    return Grid(build, axes, points=names, source=source)


def narrowing(cell: Mapping[str, Any], window: int) -> dict[str, Any]:
    """The selectors of a cell; a layer stands for the block that starts there."""
    selectors = dict(cell)
    if window > 1:
        selectors["layer"] = slice(selectors["layer"], selectors["layer"] + window)
    return selectors


def named(points: str | Iterable[str]) -> tuple[str, ...]:
    """Names or patterns as a tuple."""
    return (points,) if isinstance(points, str) else tuple(points)


def each_axes(each: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """The axes of ``each=``."""
    if isinstance(each, Mapping):
        return dict(each)
    return dict.fromkeys((each,) if isinstance(each, str) else each)


def axis_of(
    name: str, given: Any, patterns: tuple[str, ...], points: Points, layout: Layout, texts: Sequence[RowText]
) -> Axis:
    """An axis for a model and an input."""
    if isinstance(given, Mapping):
        return Axis(tuple(given), tuple(given.values()))
    if given is not None:
        values = tuple(given)
        labels: tuple[Label, ...] = tuple(v if isinstance(v, int | float | str) else repr(v) for v in values)
        if name in POSITIONS and all(isinstance(v, int) for v in values):
            labels = tuple(position_label(v, texts) for v in values)
        return Axis(labels, values)
    found = points.match(patterns)
    if name == "layer":
        layers = tuple(sorted({point.layer for point in found if point.layer is not None}))
        return Axis(layers, layers)
    if name in POSITIONS:
        count = int(layout.counts(name).min())
        return Axis(tuple(position_label(p, texts) for p in range(count)), tuple(range(count)))
    sizes = {point.site.sizes.get(name) for point in found if name in point.site.dims}
    if len(sizes) != 1 or None in sizes:
        dims = sorted({dim for point in found for dim in point.site.dims})
        raise SelectorError(
            f"a grid over {name!r} needs a dim that {', '.join(map(repr, patterns))} has, of one size; their dims are "
            f"{dims}, plus 'layer'.",
            dim=name,
        )
    size = sizes.pop()
    assert size is not None
    return Axis(tuple(range(size)), tuple(range(size)))


def position_label(position: int, texts: Sequence[RowText]) -> Label:
    """A position and its token, where all rows have the same one there."""
    tokens = {row.tokens[position] for row in texts if -len(row.tokens) <= position < len(row.tokens)}
    return (position, tokens.pop()) if len(tokens) == 1 else position
