"""Many variants of one base run, packed: all their live rows go through each block together.

Each variant joins at its own layer with the base's stream, from its own column on; the base's memory stands in for
what lies before. The result equals the loop of full runs up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Int
from torch import Tensor

from mi_core.binding import Binding
from mi_core.calling import check_fired, taps_for
from mi_core.forking import Fork
from mi_core.layout import Layout
from mi_core.loop import Taps, through
from mi_core.protocols import Batch, Memory, Stream
from mi_core.taps import IDLE, BoundTap, Record
from mi_core.trunk import Trunk

__all__ = ["Pack", "Variant"]


@dataclass(eq=False)
class Variant:
    """One spec on the rows of the base run."""

    binding: Binding
    fork: Fork
    record: Record = field(default_factory=Record)
    logits: Tensor | None = None
    """``[batch d_vocab]`` of the last real token, or ``[batch pos d_vocab]`` from the fork's column on."""


class PackTap:
    """The taps of several variants, each on its own rows of the pack."""

    __slots__ = ("_members", "_rows")

    def __init__(self, members: Sequence[tuple[int, BoundTap]], rows: int) -> None:
        self._members = members
        self._rows = rows

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """Each variant's edits on its rows; the pack is copied once, only if somebody writes."""
        out = value
        for at, tap in self._members:
            if tap.wants(name):
                part = value[at : at + self._rows]
                new = tap(name, part)
                if new is not part:
                    out = value.clone() if out is value else out
                    out[at : at + self._rows] = new
        return out

    def wants(self, *names: str) -> bool:
        """Whether any variant looks at one of these."""
        return any(tap.wants(*names) for _, tap in self._members)

    def edits(self, *names: str) -> bool:
        """Whether any variant writes one of these."""
        return any(tap.edits(*names) for _, tap in self._members)

    def cut_edges(self) -> Tensor | None:
        """The edges that the variants cut, each in its own rows."""
        cuts = [(at, cut) for at, tap in self._members if (cut := tap.cut_edges()) is not None]
        if not cuts:
            return None
        rows = max(at for at, _ in self._members) + self._rows
        sizes = [max(cut.shape[axis] for _, cut in cuts) for axis in range(1, 4)]
        joined = torch.zeros(rows, *sizes, dtype=torch.bool, device=cuts[0][1].device)
        for at, cut in cuts:
            joined[at : at + self._rows] = cut
        return joined


class Pack:
    """Variants that start at the same columns, run layer by layer."""

    def __init__(self, trunk: Trunk, first: Int[Tensor, "batch"], variants: Sequence[Variant], tokens: int) -> None:
        self.trunk = trunk
        self.backend = trunk.backend
        self.first = first
        self.layout: Layout = trunk.layout.behind(first)
        self.variants = sorted(variants, key=lambda variant: variant.fork.layer)
        self.n_rows = len(first)
        self.device = trunk.streams[0].resid.device
        width = max(self.layout.width, 1)
        self.per_call = max(1, tokens // (self.n_rows * width))
        """Variants in one call of a block."""
        rows = torch.arange(self.n_rows)
        self.taps: list[Taps] = [
            taps_for(variant.binding, self.layout, rows, variant.record, self.device, False)
            for variant in self.variants
        ]

    def run(self, *, last_only: bool) -> None:
        """Fill in the logits and records of the variants."""
        blocks = self.backend.blocks
        streams: list[Stream] = []
        joined = 0
        for layer in range(-1, len(blocks)):
            arriving = joined
            while arriving < len(self.variants) and self.variants[arriving].fork.layer <= layer:
                arriving += 1
            if arriving > joined:
                streams += self._arrive(layer, joined, arriving)
                joined = arriving
            if layer < 0 or not joined:
                continue
            final = layer == len(blocks) - 1
            for begin in range(0, joined, self.per_call):
                end = min(begin + self.per_call, joined)
                # somebody who looks behind the layers sees every position
                unseen = all(taps.outside is IDLE for taps in self.taps[begin:end])
                streams[begin:end] = self._block(layer, begin, streams[begin:end], final and last_only and unseen)
        rest = self.variants[joined:]
        streams += [self.trunk.stream(len(blocks), self.first)] * len(rest)
        self._unembed(streams, last_only)
        for variant in self.variants:
            check_fired(variant.binding, self._seen(variant))

    def _seen(self, variant: Variant) -> Record:
        """What fired, with what the base did before the fork."""
        skipped = {
            name
            for name in variant.binding.asked
            if (layer := variant.binding.points.by_name[name].layer) is not None and layer < variant.fork.layer
        }
        before = {
            name
            for name in variant.binding.asked
            if variant.fork.layer >= 0 and variant.binding.points.embedding(variant.binding.points.by_name[name])
        }
        return Record(fired=variant.record.fired | skipped | before)

    def _arrive(self, layer: int, begin: int, end: int) -> list[Stream]:
        """The streams with which variants join before a layer."""
        if layer >= 0:
            return [self.trunk.stream(layer, self.first)] * (end - begin)
        batch = self.layout.batch(self.device)
        return [self.backend.embed(batch, self.taps[index].outside) for index in range(begin, end)]

    def _block(self, layer: int, begin: int, streams: Sequence[Stream], keep_last: bool) -> list[Stream]:
        """One block on the rows of some variants."""
        block = self.backend.blocks[layer]
        members = [
            (at * self.n_rows, tap)
            for at in range(len(streams))
            if isinstance(tap := self.taps[begin + at].layers.get(layer), BoundTap)
        ]
        stream = joined_streams(streams)
        batch = self._batch(len(streams))
        memory = self._memory(layer, len(streams))
        if all(tap.only("hook_resid_pre") for _, tap in members):
            # that point is the core's own: the block itself runs as if nobody looked
            if members:
                resid = PackTap(members, self.n_rows)("hook_resid_pre", stream.resid)
                stream = replace(stream, resid=resid)
            if keep_last:
                batch = replace(batch, keep=batch.length[:, None] - 1)
            stream, _ = block(stream, batch, IDLE, memory)
        else:
            stream, _ = through(block, stream, batch, PackTap(members, self.n_rows), memory)
        return split_stream(stream, len(streams), self.n_rows)

    def _batch(self, n_variants: int) -> Batch:
        """The rows of some variants, one after the other."""
        one = self.layout.batch(self.device)
        if n_variants == 1:
            return one
        return Batch(
            inputs=one.inputs.repeat(n_variants, 1),
            start=one.start.repeat(n_variants),
            length=one.length.repeat(n_variants),
            total=one.total.repeat(n_variants),
            positions=one.positions.repeat(n_variants, 1),
        )

    def _memory(self, layer: int, n_variants: int) -> Memory | None:
        """The base's memory of a layer up to each row's first column, once for each variant."""
        if not bool(self.layout.start.any()):
            return None
        memory = self.trunk.memory.layers[layer].cut(self.layout.start)
        return memory if n_variants == 1 else memory.rows(torch.arange(self.n_rows).repeat(n_variants))

    def _unembed(self, streams: Sequence[Stream], last_only: bool) -> None:
        """The logits of every variant: of the last real tokens, or of all columns from the first on."""
        last = (self.layout.length - 1).to(self.device)
        row = torch.arange(self.n_rows, device=self.device)
        quiet: list[int] = []
        for index, variant in enumerate(self.variants):
            outside = self.taps[index].outside
            if last_only and outside is IDLE:
                quiet.append(index)
                continue
            logits = self.backend.unembed(streams[index].resid, outside)
            variant.logits = logits[row, last] if last_only else logits
        if quiet:
            resid = torch.stack([last_column(streams[index].resid, row, last) for index in quiet])
            logits = self.backend.unembed(resid.flatten(0, 1)[:, None], IDLE)[:, 0]
            for index, own in zip(quiet, torch.split(logits, self.n_rows), strict=True):
                self.variants[index].logits = own


def last_column(resid: Tensor, row: Tensor, last: Tensor) -> Tensor:
    """Each row's last real column; a block that computed only that has it already."""
    return resid[:, 0] if resid.shape[1] == 1 else resid[row, last]


def joined_streams(streams: Sequence[Stream]) -> Stream:
    """The streams of several variants as one."""
    if len(streams) == 1:
        return streams[0]
    side = {name: torch.cat([stream.side[name] for stream in streams]) for name in streams[0].side}
    return Stream(torch.cat([stream.resid for stream in streams]), side)


def split_stream(stream: Stream, n_variants: int, rows: int) -> list[Stream]:
    """One stream for each variant: views."""
    resid = torch.split(stream.resid, rows)
    side = {name: torch.split(value, rows) for name, value in stream.side.items()}
    return [Stream(resid[i], {name: parts[i] for name, parts in side.items()}) for i in range(n_variants)]
