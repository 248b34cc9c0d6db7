"""The loop over the blocks: the core's own, the same for every family.

Early stop, memory and the stream points live here, once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mi_core.abreast import Stages, alone, computed_on, expecting
from mi_core.errors import HookContractBroken
from mi_core.memory import NOTHING
from mi_core.parking import Parking
from mi_core.protocols import Backend, Batch, Block, Memory, Stream, Tap
from mi_core.taps import IDLE

__all__ = ["Outcome", "Taps", "forward", "stages"]


@dataclass(frozen=True, eq=False)
class Taps:
    """One tap for each layer at which somebody looks, and one for embedding and unembedding."""

    layers: Mapping[int, Tap]
    outside: Tap = IDLE


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one call returns, left-aligned."""

    logits: Tensor | None
    memory: tuple[Memory, ...]


def forward(
    backend: Backend,
    batch: Batch,
    taps: Taps,
    *,
    memory: Sequence[Memory] | None = None,
    last_layer: int | None = None,
    logits: str | None = "all",
    streams: list[Stream] | None = None,
) -> Outcome:
    """Run a batch through embedding, blocks and unembedding.

    ``logits=None`` stops after ``last_layer`` (-1: after the embedding); ``"last"`` unembeds each row's last real
    token only. ``streams`` is filled with the stream before each layer and behind the last.
    """
    return alone(
        stages(backend, batch, taps, memory=memory, last_layer=last_layer, logits=logits, streams=streams, kept=[])
    )


def stages(
    backend: Backend,
    batch: Batch,
    taps: Taps,
    *,
    memory: Sequence[Memory] | None = None,
    last_layer: int | None = None,
    logits: str | None = "all",
    streams: list[Stream] | None = None,
    kept: list[Memory],
    parked: Parking | None = None,
) -> Stages[Outcome]:
    """What :func:`forward` does, stage by stage; ``kept`` is filled with memories as they are made.

    Between stages the stream is ``parked``.
    """
    blocks = backend.blocks
    total = len(blocks)
    stop = total if last_layer is None else min(last_layer + 1, total)
    whole = last_layer is None or last_layer >= total
    with expecting(backend, range(-1, total + 1 if whole else stop)) as begin:
        yield -1
        begin()
        stream = waiting(backend.embed(batch, taps.outside), parked, streams)
        for layer, block in enumerate(blocks[:stop]):
            yield layer
            if parked is not None:
                (stream,) = parked.back([stream], computed_on(backend, block))
            tap, before = taps.layers.get(layer, IDLE), None if memory is None else memory[layer]
            if tap is IDLE and logits == "last" and layer == total - 1 and batch.record is None:
                stream, after = block(stream, replace(batch, keep=batch.length[:, None] - 1), tap, before)
            elif tap is IDLE:
                stream, after = block(stream, batch, tap, before)
            else:
                stream, after = through(block, stream, batch, tap, before)
            if batch.record is not None:
                kept.append(recorded(after, backend, layer, batch.record))
            stream = waiting(stream, parked, streams)
        if not whole:
            return Outcome(None, tuple(kept))
        yield total
        resid = stream.resid
        if logits == "last" and resid.shape[1] > 1:
            row = torch.arange(len(resid), device=resid.device)
            resid = resid[row, (batch.length - 1).to(resid.device)][:, None]
        return Outcome(backend.unembed(resid, taps.outside), tuple(kept))


def recorded(memory: Memory | None, backend: Backend, layer: int, asked: object) -> Memory:
    """What a layer remembers that was asked to."""
    if memory is None and not backend.shape.causal:
        return NOTHING
    if memory is None:
        raise HookContractBroken(
            f"block {layer} was asked to record its memory ({asked!r}) and returned none.", layer=layer
        )
    return memory


def waiting(stream: Stream, parked: Parking | None, streams: list[Stream] | None) -> Stream:
    """The stream between two stages: where it waits, and kept if somebody wants it."""
    stream = stream if parked is None else parked.put(stream)
    if streams is not None:
        streams.append(stream)
    return stream


def through(
    block: Block, stream: Stream, batch: Batch, tap: Tap, memory: Memory | None
) -> tuple[Stream, Memory | None]:
    """One block at which somebody looks: the core taps the stream before and after it."""
    resid = tap("hook_resid_pre", stream.resid)
    if resid is not stream.resid:
        stream = replace(stream, resid=resid)
    stream, after = block(stream, batch, tap, memory)
    resid = tap("hook_resid_post", stream.resid)
    if resid is not stream.resid:
        stream = replace(stream, resid=resid)
    return stream, after
