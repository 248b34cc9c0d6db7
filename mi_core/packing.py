"""Many variants of one base run, packed: all their live tokens go through each block together.

Each variant joins at its own layer with the base's stream, from its own column on; the base's memory stands in for
what lies before. The result equals the loop of full runs up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import torch
from torch import Tensor

from mi_core.abreast import Stages, alone, computed_on, expecting
from mi_core.binding import Binding
from mi_core.calling import check_fired, gather, taps_for
from mi_core.forking import Fork
from mi_core.loop import Taps
from mi_core.lots import Lot, in_one_row
from mi_core.names import Point, Points
from mi_core.pack_taps import Columns, Place, Rows, joined_taps
from mi_core.parking import Parking
from mi_core.protocols import Stream
from mi_core.taps import IDLE, BoundTap, Record
from mi_core.trunk import Trunk

__all__ = ["Pack", "Variant", "takes_parts"]


@dataclass(eq=False)
class Variant:
    """One spec on the rows of the base run."""

    binding: Binding
    fork: Fork
    record: Record = field(default_factory=Record)
    logits: Tensor | None = None
    """``[batch d_vocab]`` of the last real token, or ``[batch pos d_vocab]`` from the fork's column on."""


@dataclass(eq=False)
class Member:
    """A variant on its way through the layers."""

    variant: Variant
    lot: Lot
    taps: Taps
    stream: Stream

    def tap(self, layer: int) -> BoundTap | None:
        """Who looks in a layer."""
        tap = self.taps.layers.get(layer)
        return tap if isinstance(tap, BoundTap) else None

    def offer(self, layer: int, site: str) -> None:
        """One of the core's own points: the stream before or behind a layer."""
        tap = self.tap(layer)
        if tap is not None:
            self.stream = replace(self.stream, resid=tap(site, self.stream.resid))

    def last_will_do(self, layer: int) -> bool:
        """Whether nobody sees more than the last token of what the last layer returns."""
        tap = self.tap(layer)
        return self.taps.outside is IDLE and (tap is None or tap.only("hook_resid_pre"))


def takes_parts(trunk: Trunk) -> bool:
    """Whether variants of different lots can go through a block together."""
    return trunk.backend.shape.parts and not any(stream.side for stream in trunk.streams)


class Pack:
    """Variants of one trunk, run layer by layer; a call of a block has at most ``tokens`` tokens, or one variant."""

    def __init__(
        self, trunk: Trunk, variants: Sequence[Variant], tokens: int, *, parked: Parking | None = None
    ) -> None:
        self.trunk = trunk
        self.backend = trunk.backend
        self.tokens = tokens
        self.parked = parked
        """Where streams wait between the layers; None: where they are."""
        lots: dict[tuple[int, ...], Lot] = {}
        self.variants: list[tuple[Variant, Lot]] = []
        for variant in variants:
            start = tuple(variant.fork.first.tolist())
            if start not in lots:
                lots[start] = Lot(trunk, variant.fork.first)
            self.variants.append((variant, lots[start]))
        self.order = {id(lot): place for place, lot in enumerate(lots.values())}

    @property
    def mixed(self) -> bool:
        """Whether variants of different lots go through a block together."""
        return takes_parts(self.trunk)

    def run(self, *, last_only: bool) -> None:
        """Fill in the logits and records of the variants."""
        alone(self.stages(last_only=last_only))

    def stages(self, *, last_only: bool) -> Stages[None]:
        """The same, stage by stage; of a trunk that grows, a layer must be there when the variants come to it."""
        members: list[Member] = []
        n_layers = len(self.backend.blocks)
        own = range(min(variant.fork.layer for variant, _ in self.variants), n_layers + 1)
        with expecting(self.backend, own) as begin:
            for layer in own:
                yield layer
                begin()
                arrived = [self._arrived(*pair, layer) for pair in self.variants if pair[0].fork.layer == layer]
                if arrived:
                    # those that start at the same columns stand side by side
                    members = sorted([*members, *arrived], key=lambda member: self.order[id(member.lot)])
                if 0 <= layer < n_layers and members:
                    self._layer(layer, members, last_only and layer == n_layers - 1)
                if self.parked is not None and layer < n_layers:
                    for member in members:
                        member.stream = self.parked.put(member.stream)
            self._unembed(members, last_only)
        for variant, lot in self.variants:
            check_fired(variant.binding, seen(variant))
            gather(variant.binding, variant.record, lot.device)

    def _arrived(self, variant: Variant, lot: Lot, layer: int) -> Member:
        """A variant that joins before a layer, with the base's stream there."""
        rows = torch.arange(lot.n_rows)
        taps = taps_for(variant.binding, lot.layout, rows, variant.record, lot.device, False)
        stream = self.backend.embed(lot.batch(1), taps.outside) if layer < 0 else lot.stream(layer)
        return Member(variant, lot, taps, stream)

    def _layer(self, layer: int, members: Sequence[Member], last: bool) -> None:
        """One layer: the core's own points for each member, the block for as many as possible at once."""
        kept: list[Member] = []
        whole: list[Member] = []
        apart: list[Member] = []
        for member in members:
            tap = member.tap(layer)
            member.offer(layer, "hook_resid_pre")
            if tap is not None and not tap.by_token:
                apart.append(member)
            elif last and member.last_will_do(layer):
                kept.append(member)
            else:
                whole.append(member)
        for chunk in chunks(kept, self.tokens, self.mixed):
            self._block(layer, chunk, keep_last=True)
        for chunk in chunks(whole, self.tokens, self.mixed):
            self._block(layer, chunk)
        # who looks at what spans rows, such as patterns, gets a call of its own kind, and the others their fused kernel
        for chunk in chunks(apart, self.tokens, mixed=False):
            self._block(layer, chunk)
        for member in members:
            member.offer(layer, "hook_resid_post")

    def _block(self, layer: int, members: Sequence[Member], *, keep_last: bool = False) -> None:
        """One block on some members: their rows below each other, or a call in parts if they are of several lots."""
        block, lot, n_rows = self.backend.blocks[layer], members[0].lot, members[0].lot.n_rows
        taps, streams = [member.tap(layer) for member in members], [member.stream for member in members]
        if self.parked is not None:
            streams = self.parked.back(streams, computed_on(self.backend, block))
        places: list[Place] = [Rows(at * n_rows, n_rows) for at in range(len(members))]
        if all(member.lot is lot for member in members):
            batch, memory = lot.batch(len(members), keep_last=keep_last), lot.memory(layer, len(members))
            tap = joined_taps(taps, places, len(members) * n_rows)
            stream, _ = block(stacked(streams), batch, tap, memory)
        else:
            runs = [(own, len(list(found))) for own, found in groupby(member.lot for member in members)]
            batch = in_one_row([own.part(layer, count, keep_last=keep_last) for own, count in runs])
            places = stretches([(n_rows, member.lot.width) for member in members])
            resid = torch.cat([stream.resid.flatten(0, 1) for stream in streams])[None]
            stream, _ = block(Stream(resid), batch, joined_taps(taps, places, 1), None)
            if stream.resid.shape[1] != resid.shape[1]:
                places = stretches([(n_rows, 1)] * len(members))
        for member, place in zip(members, places, strict=True):
            side = {name: place.of(value) for name, value in stream.side.items()}
            member.stream = Stream(place.of(stream.resid), side)

    def _unembed(self, members: Sequence[Member], last_only: bool) -> None:
        """The logits of every variant: of the last real tokens, or of all columns from the first on."""
        quiet: list[Member] = []
        for member in members:
            if last_only and member.taps.outside is IDLE:
                quiet.append(member)
                continue
            logits = self.backend.unembed(member.stream.resid, member.taps.outside)
            member.variant.logits = last_column(logits, member.lot) if last_only else logits
        if quiet:
            resid = torch.stack([last_column(member.stream.resid, member.lot) for member in quiet])
            logits = self.backend.unembed(resid.flatten(0, 1)[:, None], IDLE)[:, 0]
            for member, own in zip(quiet, torch.split(logits, resid.shape[1]), strict=True):
                member.variant.logits = own


def chunks(members: Sequence[Member], tokens: int, mixed: bool) -> Iterator[list[Member]]:
    """Members in calls of at most so many tokens; those of different lots in one call only if ``mixed``."""
    chunk: list[Member] = []
    filled = 0
    for member in members:
        if chunk and (filled + member.lot.n_tokens > tokens or not (mixed or member.lot is chunk[0].lot)):
            yield chunk
            chunk, filled = [], 0
        chunk.append(member)
        filled += member.lot.n_tokens
    if chunk:
        yield chunk


def stretches(shapes: Sequence[tuple[int, int]]) -> list[Place]:
    """Where rectangles of ``(rows, columns)`` lie, one behind the other."""
    places: list[Place] = []
    begin = 0
    for rows, width in shapes:
        places.append(Columns(begin, rows, width))
        begin += rows * width
    return places


def seen(variant: Variant) -> Record:
    """What fired, with what the base did before the fork."""
    points, layer = variant.binding.points, variant.fork.layer
    before = {name for name in variant.binding.asked if comes_before(points.by_name[name], layer, points)}
    return Record(fired=variant.record.fired | before)


def comes_before(point: Point, layer: int, points: Points) -> bool:
    """Whether a point fires before a layer."""
    return layer >= 0 and points.embedding(point) if point.layer is None else point.layer < layer


def last_column(value: Tensor, lot: Lot) -> Tensor:
    """Each row's last real column; a block that computed only that has it already."""
    if value.shape[1] == 1:
        return value[:, 0]
    return value[torch.arange(lot.n_rows, device=value.device), (lot.layout.length - 1).to(value.device)]


def stacked(streams: Sequence[Stream]) -> Stream:
    """The streams of several variants as one."""
    if len(streams) == 1:
        return streams[0]
    side = {name: torch.cat([stream.side[name] for stream in streams]) for name in streams[0].side}
    return Stream(torch.cat([stream.resid for stream in streams]), side)
