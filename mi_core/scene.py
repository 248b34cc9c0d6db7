"""What an intervention sees besides the activation: the point, the rows, and how values are fitted to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mi_core.errors import ValueMismatch
from mi_core.layout import POSITION_DIMS, Layout
from mi_core.names import Point
from mi_core.selection import Selection
from mi_core.selectors import Selector

if TYPE_CHECKING:  # a run holds bound edits in turn
    from mi_core.run import Run

__all__ = ["Recorded", "Scene", "Value"]

Value = Any
"""A number, a tensor, a run, or the recorded values of one."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """The values that a saved spec took from a run: one tensor for each point."""

    values: Mapping[str, Tensor]
    provenance: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"<{len(self.values)} recorded activation(s) of {self.provenance.get('model')!r}>"


@dataclass(frozen=True, eq=False)
class Scene:
    """One intervention at one point in one call."""

    point: Point
    selectors: Mapping[str, Selector]
    selection: Selection
    layout: Layout
    rows: Int[Tensor, "batch"]
    """Each row's number in the whole run (a call may cover some of its rows)."""
    whole: Layout
    """The layout of the whole run."""

    @property
    def dims(self) -> tuple[str, ...]:
        """The site's dims."""
        return self.point.site.dims

    def selected_rows(self) -> Tensor:
        """The numbers, in the whole run, of the rows that the selection reaches."""
        batch = self.selection.choices.get("batch")
        return self.rows if batch is None else self.rows[batch.index]

    def present(self, x: Tensor) -> Bool[Tensor, "..."]:
        """Which of the gathered entries are real tokens, broadcastable to ``x``."""
        result = torch.ones([1] * x.ndim, dtype=torch.bool)
        for axis, dim in enumerate(self.dims):
            if dim in POSITION_DIMS:
                view = [1] * x.ndim
                view[0], view[axis] = x.shape[0], x.shape[axis]
                result = result & self._real(dim, x.shape[axis]).reshape(view)
        return result.to(x.device)

    def _real(self, dim: str, size: int) -> Tensor:
        batch = self.selection.choices.get("batch")
        index = torch.arange(len(self.rows)) if batch is None else batch.index
        choice = self.selection.choices.get(dim)
        if choice is None:
            return self.layout.real(dim)[index]
        if choice.present is None:
            return torch.ones(len(index), size, dtype=torch.bool)
        return choice.present[index]

    def coordinates(self, dim: str, x: Tensor) -> Tensor:
        """The real index of each gathered entry along a dim, broadcastable to ``x``."""
        axis = self.dims.index(dim)
        view = [1] * x.ndim
        view[axis] = x.shape[axis]
        choice = self.selection.choices.get(dim)
        if dim == "batch":
            return self.selected_rows().reshape(view)
        if choice is None:
            return torch.arange(x.shape[axis]).reshape(view)
        if not choice.per_row:
            return choice.index.reshape(view)
        batch = self.selection.choices.get("batch")
        own = choice.index if batch is None else choice.index[batch.index]
        view[0] = own.shape[0]
        return own.reshape(view)

    def fit(self, value: Value, x: Tensor, *, dims: tuple[str, ...] | None = None, what: str = "value") -> Tensor:
        """A value in the dtype, device and shape of the gathered activation ``x`` (dims of size 1 may remain).

        A scalar fits; so do the site's dims after batch and positions, all of its dims at their selected sizes (or 1;
        dims selected by an int may be left out), and the site's full shape in this run. Nothing else broadcasts.
        """
        if isinstance(value, int | float):
            return torch.tensor(value, dtype=x.dtype, device=x.device)
        if isinstance(value, Recorded):
            value = self._recorded(value)
        elif not isinstance(value, Tensor):
            return self._from_run(value, x).to(dtype=x.dtype, device=x.device)
        moved: Tensor = value.to(dtype=x.dtype, device=x.device)
        return moved if value.ndim == 0 else self._fit_tensor(moved, x, dims, what)

    def _recorded(self, value: Recorded) -> Tensor:
        if self.point.name not in value.values:
            raise ValueMismatch(
                f"the saved spec holds no value for {self.point.name!r}; it holds {sorted(value.values)}.",
                point=self.point.name,
            )
        return value.values[self.point.name]

    def _from_run(self, run: Run, x: Tensor) -> Tensor:
        taken = run.take(self.point, self.selectors)
        if taken.shape[0] == len(self.whole.ids) and "batch" not in self.selection.choices:
            taken = taken[self.rows.to(taken.device)]
        elif "batch" in self.selection.choices and taken.shape[0] != x.shape[0] and taken.shape[0] != 1:
            wanted = self._selected_of_whole()
            taken = taken[torch.tensor(wanted, device=taken.device)]
        for axis, dim in enumerate(self.dims):
            if dim in POSITION_DIMS and "batch" in self.dims and taken.shape[axis] > x.shape[axis] > 0:
                # a call over some of the rows is as wide as the longest of them
                full = self.whole.size(dim) if dim not in self.selection.choices else None
                if full == taken.shape[axis]:
                    taken = taken.narrow(axis, 0, x.shape[axis])
        for axis, dim in enumerate(self.dims):
            if taken.shape[axis] not in (1 if dim == "batch" else x.shape[axis], x.shape[axis]):
                raise ValueMismatch(
                    f"at {self.point.name!r} the run gives {list(taken.shape)} for {list(x.shape)} here: dim {dim!r} "
                    f"differs ({taken.shape[axis]} and {x.shape[axis]}). The prompts may be cut into different numbers "
                    f"of tokens; here {run.text_tokens[0]} is given. Select the same number of positions in both.",
                    point=self.point.name,
                    dim=dim,
                )
        return taken

    def _selected_of_whole(self) -> list[int]:
        batch = self.selectors["batch"]
        from mi_core.selectors import chosen

        order = chosen(batch, len(self.whole.ids), dim="batch", where=self.point.name)
        return [order.index(int(row)) for row in self.selected_rows()]

    def _fit_tensor(self, value: Tensor, x: Tensor, dims: tuple[str, ...] | None, what: str) -> Tensor:
        site_dims, shape = self.dims, list(x.shape)
        if dims is not None:
            return self._fit_named(value, x, dims, what)
        last = max((axis for axis, dim in enumerate(site_dims) if dim == "batch" or dim in POSITION_DIMS), default=-1)
        kept = [axis for axis, dim in enumerate(site_dims) if not self._by_int(dim)]
        for axes in (range(x.ndim), kept, range(last + 1, x.ndim), [a for a in kept if a > last]):
            fitted = self._on_axes(value, list(axes), x)
            if fitted is not None:
                return fitted
        full = self._full_shape(x)
        if list(value.shape) == full:
            inside = self.whole.inward(value, site_dims)
            rows = inside[self.rows.to(inside.device)] if site_dims[0] == "batch" else inside
            for axis, dim in enumerate(site_dims):
                if dim in POSITION_DIMS:
                    rows = rows.narrow(axis, 0, min(rows.shape[axis], self.layout.size(dim) or rows.shape[axis]))
            return self.selection.gather(rows)[0]
        raise ValueMismatch(
            f"the {what} of shape {list(value.shape)} does not fit {self.point.name!r}: selected is "
            f"{dict(zip(site_dims, shape, strict=True))}, the whole site is {dict(zip(site_dims, full, strict=True))}. "
            f"Give a number, {list(site_dims[last + 1 :])}, the selected shape, the whole shape, or say which dims the "
            'value has (dims=("batch", "d_model")).',
            point=self.point.name,
            value_shape=tuple(value.shape),
            selected_shape=tuple(shape),
        )

    def _by_int(self, dim: str) -> bool:
        return dim in self.selection.choices and self.selection.choices[dim].drop

    def _full_shape(self, x: Tensor) -> list[int]:
        """The site's shape in the whole run, in the user's layout."""
        shape = []
        for axis, dim in enumerate(self.dims):
            size = self.point.site.sizes.get(dim)
            if dim == "batch":
                size = len(self.whole.ids)
            elif dim in ("pos", "query_pos") or (dim == "key_pos" and not self.whole.start.any()):
                size = self.whole.columns
            elif dim == "key_pos":
                size = self.whole.size(dim)
            shape.append(x.shape[axis] if size is None else size)
        return shape

    def _on_axes(self, value: Tensor, axes: Sequence[int], x: Tensor) -> Tensor | None:
        """``value`` as ``x``'s axes ``axes``, if its sizes are theirs (or, with all dims, 1)."""
        if not axes or value.ndim != len(axes):
            return None
        sizes = list(x.shape)
        if 0 in axes and self.dims[0] == "batch" and "batch" not in self.selection.choices:
            whole = len(self.whole.ids)
            if value.shape[axes.index(0)] == whole != x.shape[0]:
                value = value.index_select(axes.index(0), self.rows.to(value.device))
        ones = 0 in axes
        if any(value.shape[i] != sizes[a] and not (ones and value.shape[i] == 1) for i, a in enumerate(axes)):
            return None
        view = [1] * x.ndim
        for i, axis in enumerate(axes):
            view[axis] = value.shape[i]
        return value.reshape(view)

    def _fit_named(self, value: Tensor, x: Tensor, dims: tuple[str, ...], what: str) -> Tensor:
        unknown = [dim for dim in dims if dim not in self.dims]
        axes = [self.dims.index(dim) for dim in dims if dim in self.dims]
        if unknown or len(dims) != value.ndim or axes != sorted(axes):
            raise ValueMismatch(
                f"dims={dims!r} does not describe the {what} of shape {list(value.shape)} at {self.point.name!r}, "
                f"whose dims are {self.dims}: name one of them for each axis, in that order.",
                dims=dims,
            )
        if "batch" in dims and len(self.whole.ids) == value.shape[dims.index("batch")] != x.shape[0]:
            rows = self.selected_rows().to(value.device)
            value = value.index_select(dims.index("batch"), rows)
        if any(value.shape[i] not in (1, x.shape[axis]) for i, axis in enumerate(axes)):
            raise ValueMismatch(
                f"the {what} of shape {dict(zip(dims, value.shape, strict=True))} does not fit "
                f"{dict(zip(self.dims, x.shape, strict=True))} selected at {self.point.name!r}.",
                point=self.point.name,
                value_shape=tuple(value.shape),
                selected_shape=tuple(x.shape),
            )
        view = [1] * x.ndim
        for i, axis in enumerate(axes):
            view[axis] = value.shape[i]
        return value.reshape(view)
