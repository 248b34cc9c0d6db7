"""From a bound spec to results: taps for one call, calls over chunks of rows, chunks joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from mi_core.abreast import Stages, all_abreast, alone, comes_and_goes, parking
from mi_core.binding import Binding, BoundEdit
from mi_core.errors import HookContractBroken
from mi_core.inserting import InsertCall
from mi_core.layout import POSITION_DIMS, Layout
from mi_core.loop import Taps, stages
from mi_core.memory import ModelMemory
from mi_core.names import Point
from mi_core.parking import Parking
from mi_core.protocols import Backend, Memory, Stream, Tap
from mi_core.selection import Selection, told_by
from mi_core.taps import BoundTap, PointActions, Record
from mi_core.told import Meant, Teller, wanted_at
from mi_core.trunk import Trunk
from mi_core.vocabulary import TOLD_DIMS

__all__ = ["Called", "call", "call_in_chunks", "row_chunks", "staged_call"]


@dataclass(frozen=True, eq=False)
class Called:
    """What a call, or several joined, brought back: everything left-aligned."""

    logits: Tensor | None
    record: Record
    trunk: Trunk | None
    chunks: int = 1


def taps_for(
    binding: Binding, layout: Layout, rows: Int[Tensor, "rows"], record: Record, device: torch.device, grad: bool
) -> Taps:
    """The taps of one call over some of the rows."""

    def part(selection: Selection) -> Selection:
        return selection if layout is binding.layout else selection.rows(rows).behind(layout.skipped)

    calls = {id(insert): InsertCall(insert.within(part), BoundTap({}, record)) for insert in binding.inserts}
    tellers: dict[str, Teller] = {}
    actions = {
        name: actions_at(name, binding, layout, rows, calls, grad, tellers)
        for name in {*binding.steps, *binding.after, *binding.before}
    }
    for name, teller in tellers.items():
        actions.setdefault(name, PointActions(binding.points.by_name[name])).hear = teller.hear
    for made in calls.values():
        own = {p.name: actions.pop(p.name) for p in made.bound.points if p.name in actions}
        made.tap = BoundTap({acts.point.site.name: acts for acts in own.values()}, record)
    by_layer: dict[int | None, dict[str, PointActions]] = {}
    for acts in actions.values():
        by_layer.setdefault(acts.point.layer, {})[acts.point.site.name] = acts
    cuts: dict[int | None, list[BoundEdit]] = {}
    for bound in (edit for edits in binding.cuts.values() for edit in edits):
        cuts.setdefault(bound.point.layer, []).append(bound)
    taps: dict[int, Tap] = {}
    for layer in {*by_layer, *cuts} - {None}:
        assert layer is not None
        cut = cut_mask(cuts.get(layer, ()), layout, rows, binding.layout, device)
        names = tuple(bound.point.name for bound in cuts.get(layer, ()))
        taps[layer] = BoundTap(by_layer.get(layer, {}), record, cut, names)
    outside = by_layer.get(None)
    return Taps(taps, BoundTap(outside, record)) if outside else Taps(taps)


def actions_at(
    name: str,
    binding: Binding,
    layout: Layout,
    rows: Int[Tensor, "rows"],
    calls: Mapping[int, InsertCall],
    grad: bool,
    tellers: dict[str, Teller],
) -> PointActions:
    """Everything bound to one point, for a call over some of the rows; ``tellers`` are those whom it asks."""
    whole = binding.layout
    acts = PointActions(binding.points.by_name[name], grad=grad)
    for step in binding.steps.get(name, ()):
        if not isinstance(step, BoundEdit):
            acts.steps.append(calls[id(step)].step(name))
            acts.across |= step.across_positions
        elif (act := step.step(layout, rows, whole)) is not None:
            wanted = wanted_at(step.intervention.selectors, acts.point)
            acts.steps.append(teller_of(acts.point, tellers).only(act, wanted) if wanted else act)
    if acts.steps:
        acts.pads = layout.pads(acts.point.site.dims)
    for kept, kind in ((binding.after, "after"), (binding.before, "before")):
        if name in kept:
            selection = kept[name].selection
            selection = selection if layout is whole else selection.rows(rows).behind(layout.skipped)
            wanted = wanted_at(kept[name].selectors, acts.point)
            reader = Meant(selection, teller_of(acts.point, tellers), wanted) if wanted else selection
            setattr(acts, kind, reader)
            setattr(acts, f"{kind}_placed", kept[name].placement)
    return acts


def teller_of(point: Point, tellers: dict[str, Teller]) -> Teller:
    """Who tells, in the point's layer, what its slots hold."""
    site = next(teller for dim in TOLD_DIMS if (teller := told_by(dim, point.site)) is not None)
    return tellers.setdefault(f"blocks.{point.layer}.{site}", Teller())


def cut_mask(
    edits: Sequence[BoundEdit], layout: Layout, rows: Tensor, whole: Layout, device: torch.device
) -> Tensor | None:
    """The edges that knockouts cut in one layer: True where the query may not see the key."""
    cut: Tensor | None = None
    for edit in edits:
        scene = edit.scene(layout, rows, whole)
        choices = scene.selection.choices
        if scene.selection.empty:
            continue
        own_rows = "batch" in choices or any(choice.per_row for choice in choices.values())
        shape = []
        for dim in scene.dims:
            size = layout.size(dim) or scene.point.site.sizes.get(dim, 1)
            shape.append(size if dim in POSITION_DIMS or dim in choices or (dim == "batch" and own_rows) else 1)
        ones = torch.ones(scene.selection.sizes(shape), dtype=torch.bool)
        here = scene.selection.write(torch.zeros(shape, dtype=torch.bool), ones)
        cut = here if cut is None else cut | here
    return None if cut is None else cut.to(device)


def call(
    binding: Binding,
    backend: Backend,
    device: torch.device,
    *,
    memory: ModelMemory | None = None,
    record: str | None = None,
    last_layer: int | None = None,
    logits: str | None = "all",
    grad: bool = False,
) -> Called:
    """Run the model once, over all rows."""
    with torch.set_grad_enabled(grad):
        return alone(
            staged_call(
                binding,
                backend,
                device,
                memory=memory,
                record=record,
                last_layer=last_layer,
                logits=logits,
                grad=grad,
            )
        )


def staged_call(
    binding: Binding,
    backend: Backend,
    device: torch.device,
    *,
    rows: Tensor | None = None,
    memory: ModelMemory | None = None,
    record: str | None = None,
    last_layer: int | None = None,
    logits: str | None = "all",
    grad: bool = False,
    kept: Record | None = None,
    streams: list[Stream] | None = None,
    memories: list[Memory] | None = None,
    parked: Parking | None = None,
) -> Stages[Called]:
    """The model once, over all rows or some of them, stage by stage; others may watch what is kept grow."""
    whole = binding.layout
    layout = whole if rows is None else whole.rows(rows)
    rows = torch.arange(len(whole.ids)) if rows is None else rows
    kept = Record() if kept is None else kept
    taps = taps_for(binding, layout, rows, kept, device, grad)
    streams, memories = [] if streams is None else streams, [] if memories is None else memories
    outcome = yield from stages(
        backend,
        layout.batch(device, record),
        taps,
        memory=None if memory is None else memory.layers,
        last_layer=last_layer,
        logits=logits,
        streams=None if record is None else streams,
        kept=memories,
        parked=parked,
    )
    check_fired(binding, kept)
    gather(binding, kept, device)
    made = None if record is None else Trunk.growing(backend, binding, streams, memories).ended()
    return Called(outcome.logits, kept, made)


def gather(binding: Binding, record: Record, device: torch.device) -> None:
    """Put captures that nobody keeps elsewhere where inputs and logits are, from whatever device their layer is on."""
    for bound, kept in ((binding.after, record.after), (binding.before, record.before)):
        for name, capture in bound.items():
            if capture.placement.device is None and name in kept:
                kept[name] = kept[name].to(device)


def check_fired(binding: Binding, record: Record) -> None:
    """Refuse a run in which something that was asked did not happen."""
    silent = [name for name in binding.asked if name not in record.fired]
    if silent:
        raise HookContractBroken(
            f"{silent[0]!r} is listed by {binding.points.model} but did not fire"
            + (f" (nor did {len(silent) - 1} more)" if len(silent) > 1 else "")
            + ". The backend must call its tap there, and ask tap.cut_edges() in every layer with attention scores.",
            points=tuple(silent),
        )


def row_chunks(length: Int[Tensor, "batch"], tokens: int, padding: int | None = None) -> list[Tensor]:
    """Rows in chunks of at most ``tokens`` columns, rows of like length together; at most so many are padding.

    >>> lengths = torch.tensor([3, 9, 3, 8])
    >>> row_chunks(lengths, 40)
    [tensor([0, 2, 3, 1])]
    >>> row_chunks(lengths, 40, padding=2)
    [tensor([0, 2]), tensor([3, 1])]
    """
    order = torch.argsort(length, stable=True).tolist()
    chunks: list[list[int]] = []
    held = 0
    for row, size in zip(order, length[order].tolist(), strict=True):
        # rows come from short to long, so the new row is the widest
        columns = (len(chunks[-1]) + 1) * size if chunks else 0
        if chunks and columns <= tokens and (padding is None or columns - held - size <= padding):
            chunks[-1].append(row)
            held += size
        else:
            chunks.append([row])
            held = size
    return [torch.tensor(chunk) for chunk in chunks]


def call_in_chunks(
    binding: Binding,
    backend: Backend,
    device: torch.device,
    tokens: int,
    *,
    memory: ModelMemory | None,
    last_layer: int | None,
    logits: str | None,
) -> Called:
    """Run the rows in length-bucketed chunks and join the results: nothing changes but memory.

    Weights that come and go come once for all chunks, layer by layer.
    """
    chunks = row_chunks(binding.layout.length, tokens)
    together = comes_and_goes(backend)
    runs = [
        staged_call(
            binding,
            backend,
            device,
            rows=rows,
            memory=None if memory is None else memory.rows(rows),
            last_layer=last_layer,
            logits=logits,
            parked=parking(backend) if together else None,
        )
        for rows in chunks
    ]
    with torch.no_grad():
        parts = all_abreast(backend, runs) if together else [alone(run) for run in runs]
    record = Record(fired=set.union(*(part.record.fired for part in parts)))
    for name, bound in binding.after.items():
        pieces = [part.record.after[name] for part in parts]
        record.after[name] = joined(pieces, chunks, bound.selection)
    for name, bound in binding.before.items():
        pieces = [part.record.before[name] for part in parts]
        record.before[name] = joined(pieces, chunks, bound.selection)
    out = None
    if parts[0].logits is not None:
        out = in_order([part.logits for part in parts if part.logits is not None], chunks, {1})
    return Called(out, record, None, len(chunks))


def joined(pieces: Sequence[Tensor], chunks: Sequence[Tensor], selection: Selection) -> Tensor:
    """Captures of chunks as one capture of all rows."""
    dims = [dim for dim in selection.dims if dim not in selection.choices or not selection.choices[dim].drop]
    widen = {axis for axis, dim in enumerate(dims) if dim in POSITION_DIMS}
    if "batch" not in selection.choices:
        return in_order(pieces, chunks, widen)
    wanted = selection.choices["batch"].index.tolist()
    held = [torch.tensor([row for row in wanted if row in set(chunk.tolist())]) for chunk in chunks]
    if selection.choices["batch"].drop:
        return next(piece for piece, rows in zip(pieces, held, strict=True) if len(rows))
    place = {row: here for here, row in enumerate(wanted)}
    order = [torch.tensor([place[int(row)] for row in rows]) for rows in held]
    kept = [(piece, rows) for piece, rows in zip(pieces, order, strict=True) if len(rows)]
    return in_order([piece for piece, _ in kept], [rows for _, rows in kept], widen)


def in_order(pieces: Sequence[Tensor], rows: Sequence[Tensor], widen: set[int]) -> Tensor:
    """Pieces of rows, filled up with zeros to the widest along some axes, in the order of the rows."""
    sizes = {axis: max(piece.shape[axis] for piece in pieces) for axis in widen}
    filled = []
    for piece in pieces:
        pad = [0] * (2 * piece.ndim)
        for axis, size in sizes.items():
            pad[2 * (piece.ndim - 1 - axis) + 1] = size - piece.shape[axis]
        filled.append(torch.nn.functional.pad(piece, pad) if any(pad) else piece)
    order = torch.argsort(torch.cat(list(rows)))
    return torch.cat(filled).index_select(0, order.to(filled[0].device))
