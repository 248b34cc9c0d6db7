"""Values fitted to a selected activation: which of its dims they have, and where they go.

A number fits; so do the site's dims after batch and positions, all of its dims at their selected sizes (or 1; dims
selected by an int may be left out), and the site's full shape in the run. Nothing else broadcasts. Positions that are
not selected are columns, as the user sees them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from mi_core.errors import ValueMismatch
from mi_core.layout import POSITION_DIMS
from mi_core.scene import Scene
from mi_core.selection import told_by
from mi_core.sources import Source, Value, is_source
from mi_core.vocabulary import TOLD_DIMS

__all__ = ["aligned", "fit", "from_rows"]


def fit(value: Value, x: Tensor, scene: Scene, *, dims: tuple[str, ...] | None = None, what: str = "value") -> Tensor:
    """A value in the dtype, device and shape of the gathered activation ``x`` (dims of size 1 may remain).

    Raises:
        ValueMismatch: it does not fit; the message names both shapes.
    """
    if isinstance(value, Tensor):
        moved: Tensor = value.to(dtype=x.dtype, device=x.device)
        return moved if value.ndim == 0 else fit_tensor(moved, x, scene, dims, what)
    if is_source(value):
        return from_source(value, x, scene).to(dtype=x.dtype, device=x.device)
    return torch.tensor(value, dtype=x.dtype, device=x.device)


def from_source(source: Source, x: Tensor, scene: Scene) -> Tensor:
    """The same point and selection of a run: one row for each selected row, or its only row for all."""
    value, counts = source.values_at(scene.point, scene.selectors)
    there, here = value.shape[0], len(scene.all_rows())
    if there not in (1, here):
        raise ValueMismatch(
            f"at {scene.point.name!r} the run gives {there} rows for {here} here. Give a run of as many rows, "
            "or of one, or select rows with .at(batch=...).",
            point=scene.point.name,
        )
    rows = scene.places() if there > 1 else torch.zeros(len(scene.selected_rows()), dtype=torch.long)
    return from_rows(value, counts, rows, x, scene)


def from_rows(
    value: Tensor, counts: Mapping[str, Tensor], rows: Int[Tensor, "rows"], x: Tensor, scene: Scene
) -> Tensor:
    """Some rows of a left-aligned value, one for each selected row of this call, which must be as long."""
    own = scene.selection.counts(scene.layout)
    for dim, count in own.items():
        differ = (counts[dim][rows] != count).nonzero()
        if len(differ):
            first = int(differ[0])
            row, here, there = int(scene.selected_rows()[first]), int(count[first]), int(counts[dim][rows][first])
            raise ValueMismatch(
                f"at {scene.point.name!r} row {row} has {here} entries along {dim!r}, the run that the value is of has "
                f"{there}. The prompts may be cut into different numbers of tokens: select as many in both.",
                point=scene.point.name,
                dim=dim,
            )
    return narrowed(value[rows.to(value.device)], x, scene)


def aligned(value: Tensor, x: Tensor, scene: Scene) -> Tensor:
    """A left-aligned value of the whole run's selection, for the rows and columns of this call."""
    if scene.dims[0] == "batch" and value.shape[0] == len(scene.all_rows()) != 1:
        value = value[scene.places().to(value.device)]
    return narrowed(value, x, scene)


def narrowed(value: Tensor, x: Tensor, scene: Scene) -> Tensor:
    """A value cut to the columns of this call: a call over some of the rows is as wide as the longest of them."""
    for axis, dim in enumerate(scene.dims):
        if dim in POSITION_DIMS and scene.free(dim) and value.shape[axis] > max(x.shape[axis], 1):
            value = value.narrow(axis, 0, x.shape[axis])
        if value.shape[axis] not in (1, x.shape[axis]):
            raise ValueMismatch(
                f"at {scene.point.name!r} a value of {dict(zip(scene.dims, value.shape, strict=True))} does not fit "
                f"{dict(zip(scene.dims, x.shape, strict=True))}: {dim!r} differs.",
                point=scene.point.name,
                dim=dim,
            )
    return value


def fit_tensor(value: Tensor, x: Tensor, scene: Scene, dims: tuple[str, ...] | None, what: str) -> Tensor:
    """A tensor of at least one dim, by the rules above or by named dims."""
    whole = [full_size(axis, x, scene) for axis in range(x.ndim)]
    selected = [
        len(scene.all_rows()) if dim == "batch" else whole[axis] if scene.free(dim) else x.shape[axis]
        for axis, dim in enumerate(scene.dims)
    ]
    axes = named(value, selected, scene, dims, what) if dims is not None else guessed(value, selected, scene)
    if axes is not None:
        view = [1] * x.ndim
        for size, axis in zip(value.shape, axes, strict=True):
            view[axis] = size
        return aligned(inward(value.reshape(view), scene), x, scene)
    if list(value.shape) == whole:
        inside = scene.whole.inward(value, scene.dims)
        part = inside[scene.rows.to(inside.device)] if scene.dims[0] == "batch" else inside
        return narrowed(scene.of_whole.rows(scene.rows).gather(part)[0], x, scene)
    trailing = scene.dims[last_shared(scene) + 1 :]
    raise ValueMismatch(
        f"the {what} of shape {list(value.shape)} does not fit {scene.point.name!r}: selected is "
        f"{dict(zip(scene.dims, selected, strict=True))}, the whole site {dict(zip(scene.dims, whole, strict=True))}. "
        f"Give a number, {f'{list(trailing)}, ' if trailing else ''}the selected shape, the whole shape, or say which "
        'dims the value has (dims=("batch", "d_model")).',
        point=scene.point.name,
        value_shape=tuple(value.shape),
        selected_shape=tuple(selected),
    )


def full_size(axis: int, x: Tensor, scene: Scene) -> int:
    """The size of a dim of the site in the whole run, in the user's layout."""
    dim, whole = scene.dims[axis], scene.whole
    if dim == "batch":
        return len(whole.ids)
    if dim in POSITION_DIMS:
        behind = dim == "key_pos" and bool(whole.start.any())
        return whole.size(dim) or 0 if behind else whole.columns
    return scene.point.site.sizes.get(dim, x.shape[axis])


def last_shared(scene: Scene) -> int:
    """The last axis that is batch, a position, or slots that are selected by what they hold.

    What comes behind it is the same for every token.
    """
    told = {TOLD_DIMS[dim][0] for dim in scene.selectors if told_by(dim, scene.point.site) is not None}
    shared = [axis for axis, dim in enumerate(scene.dims) if dim == "batch" or dim in (*POSITION_DIMS, *told)]
    return max(shared, default=-1)


def guessed(value: Tensor, selected: list[int], scene: Scene) -> list[int] | None:
    """The axes of the site that a value's axes are, by its shape; None if it has none of the shapes that fit."""
    every = list(range(len(selected)))
    kept = [axis for axis in every if scene.free(dim := scene.dims[axis]) or not scene.selection.choices[dim].drop]
    trailing = every[last_shared(scene) + 1 :]
    for axes, ones in ((every, True), (kept, True), (trailing, False), ([a for a in kept if a in trailing], False)):
        if axes and value.ndim == len(axes):
            sizes = zip(value.shape, axes, strict=True)
            if all(size == selected[axis] or (ones and size == 1) for size, axis in sizes):
                return axes
    return None


def named(value: Tensor, selected: list[int], scene: Scene, dims: tuple[str, ...], what: str) -> list[int]:
    """The axes that ``dims`` names."""
    axes = [scene.dims.index(dim) for dim in dims if dim in scene.dims]
    if len(axes) != len(dims) or len(dims) != value.ndim or axes != sorted(set(axes)):
        raise ValueMismatch(
            f"dims={dims!r} does not describe the {what} of shape {list(value.shape)} at {scene.point.name!r}, "
            f"whose dims are {scene.dims}: name one of them for each axis, in that order.",
            dims=dims,
        )
    if any(size not in (1, selected[axis]) for size, axis in zip(value.shape, axes, strict=True)):
        raise ValueMismatch(
            f"the {what} of shape {dict(zip(dims, value.shape, strict=True))} does not fit "
            f"{dict(zip(scene.dims, selected, strict=True))} selected at {scene.point.name!r}.",
            point=scene.point.name,
            value_shape=tuple(value.shape),
            selected_shape=tuple(selected),
        )
    return axes


def inward(value: Tensor, scene: Scene) -> Tensor:
    """A value of the selected rows whose unselected positions are the user's columns, left-aligned."""
    whole = scene.whole
    free = [dim if scene.free(dim) and value.shape[axis] > 1 else "" for axis, dim in enumerate(scene.dims)]
    if whole.mask is None or not any(dim in POSITION_DIMS for dim in free):
        return value
    rows = scene.all_rows()
    value = value.expand(len(rows), *value.shape[1:])
    return whole.picked(rows).inward(value, free)
