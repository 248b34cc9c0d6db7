"""Captures of a generation: the pieces that its calls brought, put together as one capture of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mi_core.layout import Layout
from mi_core.selection import Choice, Selection
from mi_core.vocabulary import CLOSED
from mi_core.windows import Window, spread

__all__ = ["Piece", "never_computed", "pieces_joined"]


@dataclass(frozen=True, eq=False)
class Piece:
    """What one call captured at one point: selected, left-aligned, every dim kept."""

    window: Window
    selection: Selection
    """What was selected in the call."""
    value: Tensor


def pieces_joined(
    pieces: Sequence[Piece], asked: Selection, whole: Selection, layout: Layout, *, masked: bool = False
) -> Tensor:
    """The selected entries of the whole; a column that was computed again counts as it was computed last.

    ``asked`` is the selection before anybody knew how long the rows become, ``whole`` that of the finished rows.
    ``masked``: keys that came later than a query are closed to it, not zero.
    """
    dims = whole.dims
    keys = dims.index("key_pos") if "key_pos" in dims else None
    if keys is not None:
        width = key_width(asked, layout)
        pieces = [Piece(p.window, p.selection, widened(p.value, keys, width)) for p in pieces]
    value = columns_joined(pieces, whole, layout)
    if keys is not None and "key_pos" in whole.choices:
        value = reordered(value, keys, asked.choices["key_pos"], whole, layout)
    if masked:
        value = later_closed(value, whole, layout)
    return whole.squeezed(value)


def never_computed(whole: Selection, layout: Layout, value: Tensor, *, masked: bool) -> Tensor:
    """What stands for entries that no call had (a key that came after its query): zeros, or -inf where it is closed."""
    return whole.squeezed(later_closed(value, whole, layout) if masked else value)


def columns_joined(pieces: Sequence[Piece], whole: Selection, layout: Layout) -> Tensor:
    """The pieces along the position dim, each row in the order of its selection."""
    axis = next(axis for axis, dim in enumerate(whole.dims) if dim in ("pos", "query_pos"))
    dim, batch = whole.dims[axis], whole.choices.get("batch")
    rows = list(range(len(layout.ids))) if batch is None else batch.index.tolist()
    place = {row: here for here, row in enumerate(rows)}
    where = torch.full((len(rows), layout.width), -1)
    parts, begin = [], 0
    for piece in pieces:
        index, present = piece.window.columns(piece.selection.choices.get(dim))
        here = piece.selection.choices["batch"].index if "batch" in piece.selection.choices else slice(None)
        index, present, numbers = index[here], present[here], piece.window.rows[here]
        to = torch.tensor([place[row] for row in numbers.tolist()])
        slots = (begin + torch.arange(index.shape[1])).expand_as(index)
        where[to[:, None].expand_as(index)[present], index[present]] = slots[present]
        value = piece.value.movedim(axis, 1)
        if to.tolist() != list(range(len(rows))):
            value = value.new_zeros(len(rows), *value.shape[1:]).index_copy(0, to.to(value.device), value)
        parts.append(value)
        begin += index.shape[1]
    wanted, there = columns_of(whole.choices.get(dim), layout, dim)
    if batch is not None:
        wanted, there = wanted[batch.index], there[batch.index]
    found = where.gather(1, wanted)
    return picked(torch.cat(parts, 1), found.clamp(min=0), there & (found >= 0)).movedim(1, axis)


def later_closed(value: Tensor, whole: Selection, layout: Layout) -> Tensor:
    """-inf at the keys that a query had not yet when it was computed, as in a run of the finished rows."""
    batch = whole.choices.get("batch")
    axes = [whole.dims.index(dim) for dim in ("query_pos", "key_pos")]
    (query, asks), (key, there) = (columns_of(whole.choices.get(dim), layout, dim) for dim in ("query_pos", "key_pos"))
    # keys are counted from the first that a memory covers
    later = (key[:, None] > (layout.start[:, None] + query)[:, :, None]) & there[:, None] & asks[:, :, None]
    later = later if batch is None else later[batch.index]
    shape = [len(later), *[1] * (value.ndim - 3), *later.shape[1:]]
    seen = value.movedim(axes, (-2, -1))
    return seen.masked_fill(later.reshape(shape).to(value.device), CLOSED).movedim((-2, -1), axes)


def columns_of(choice: Choice | None, layout: Layout, dim: str) -> tuple[Int[Tensor, "rows n"], Bool[Tensor, "rows n"]]:
    """The selected entries of every finished row along a position dim."""
    if choice is not None:
        return spread(choice, len(layout.ids))
    counts = layout.counts(dim)
    index = torch.arange(int(counts.max())).expand(len(counts), -1)
    return index, index < counts[:, None]


def picked(value: Tensor, index: Int[Tensor, "rows n"], present: Bool[Tensor, "rows n"]) -> Tensor:
    """Each row's own entries of the second dim; zeros where there is none."""
    row = torch.arange(len(index))[:, None]
    taken = value[row.to(value.device), index.to(value.device)]
    here = present.reshape(*present.shape, *[1] * (taken.ndim - 2)).to(value.device)
    return torch.where(here, taken, torch.zeros((), dtype=value.dtype, device=value.device))


def key_width(asked: Selection, layout: Layout) -> int:
    """How many keys a piece has at most."""
    return (
        asked.choices["key_pos"].index.shape[-1]
        if "key_pos" in asked.choices
        else int((layout.start + layout.length).max())
    )


def widened(value: Tensor, axis: int, width: int) -> Tensor:
    """Zeros behind the keys that were there: what comes later is not seen."""
    pad = [0] * (2 * value.ndim)
    pad[2 * (value.ndim - 1 - axis) + 1] = width - value.shape[axis]
    return torch.nn.functional.pad(value, pad) if width > value.shape[axis] else value


def reordered(value: Tensor, axis: int, asked: Choice, whole: Selection, layout: Layout) -> Tensor:
    """The selected keys that were reached, in the order of the selection."""
    batch, rows = whole.choices.get("batch"), len(layout.ids)
    (had, _), (wanted, there) = spread(asked, rows), spread(whole.choices["key_pos"], rows)
    if batch is not None:
        had, wanted, there = had[batch.index], wanted[batch.index], there[batch.index]
    # what fills a row up lies behind its own keys, so the first that matches is one of them
    found = (had[:, None, :] == wanted[:, :, None]).to(torch.int8).argmax(-1)
    return picked(value.movedim(axis, 1), found, there).movedim(1, axis)
