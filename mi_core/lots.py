"""Variants that start at the same columns: what a block needs to go on with them from a base run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from mi_core.placed import placed_in
from mi_core.protocols import Batch, Memory, Part, Stream
from mi_core.trunk import Trunk

__all__ = ["Lot", "in_one_row"]


class Lot:
    """The rows of a base run from each row's column ``first`` on."""

    def __init__(self, trunk: Trunk, first: Int[Tensor, "batch"]) -> None:
        self.trunk = trunk
        self.first = first
        self.layout = trunk.layout.behind(first)
        self.n_rows = len(first)
        self.width = max(self.layout.width, 1)
        self.n_tokens = self.n_rows * self.width
        """Columns of one variant, padding included."""

    @property
    def device(self) -> torch.device:
        """Where the call's batch is made: with the embedding."""
        placed = placed_in(self.trunk.backend)
        return self.trunk.streams[0].resid.device if placed is None else placed.device

    def stream(self, layer: int) -> Stream:
        """The base's stream before a layer."""
        return self.trunk.stream(layer, self.first)

    def batch(self, n_variants: int, *, keep_last: bool = False) -> Batch:
        """What a call covers: the rows of some variants, one after the other."""
        one = self.layout.batch(self.device)
        if n_variants > 1:
            one = Batch(
                inputs=again(one.inputs, n_variants),
                start=again(one.start, n_variants),
                length=again(one.length, n_variants),
                total=again(one.total, n_variants),
                positions=again(one.positions, n_variants),
            )
        return replace(one, keep=one.length[:, None] - 1) if keep_last else one

    def memory(self, layer: int, n_variants: int) -> Memory | None:
        """The base's memory of a layer up to each row's first column, once for each variant."""
        if not bool(self.layout.start.any()):
            return None
        memory = self.trunk.memory.layers[layer].cut(self.layout.start)
        return memory if n_variants == 1 else memory.rows(torch.arange(self.n_rows).repeat(n_variants))

    def part(self, layer: int, n_variants: int, *, keep_last: bool = False) -> Part:
        """The same as one of the parts of a call."""
        return Part(self.batch(n_variants, keep_last=keep_last), self.memory(layer, n_variants))


def again(rows: Tensor, times: int) -> Tensor:
    """Rows several times, one set after the other; a view of a single row."""
    if len(rows) == 1:
        return rows.expand(times, *rows.shape[1:])
    return rows.repeat(times, *[1] * (rows.ndim - 1))


def in_one_row(parts: Sequence[Part]) -> Batch:
    """A call in parts: their tokens one behind the other in one row."""
    batches = [part.batch for part in parts]
    positions = torch.cat([batch.positions.flatten() for batch in batches])[None]
    count = torch.full((1,), positions.shape[1], device=positions.device)
    kept: list[Tensor] = []
    begin = 0
    for batch in batches:
        rows, columns = batch.positions.shape
        if batch.keep is not None:
            row = torch.arange(rows, device=positions.device)[:, None]
            kept.append((begin + row * columns + batch.keep).flatten())
        begin += rows * columns
    return Batch(
        inputs=torch.cat([batch.inputs.flatten() for batch in batches])[None],
        start=torch.zeros_like(count),
        length=count,
        total=count,
        positions=positions,
        keep=torch.cat(kept)[None] if kept else None,
        parts=tuple(parts),
    )
