"""The loop over the blocks: the core's own, the same for every family.

Early stop, memory and the stream points live here, once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mi_core.abreast import Stages, alone
from mi_core.errors import HookContractBroken
from mi_core.memory import NOTHING
from mi_core.placed import stream_on
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
    parked: torch.device | None = None,
) -> Stages[Outcome]:
    """What :func:`forward` does, stage by stage; ``kept`` is filled with memories as they are made.

    Between stages the stream waits on the device ``parked``.
    """
    blocks = backend.blocks
    stop = len(blocks) if last_layer is None else min(last_layer + 1, len(blocks))
    yield -1
    stream = backend.embed(batch, taps.outside)
    for layer, block in enumerate(blocks[:stop]):
        stream = waiting(stream, parked, streams)
        yield layer
        tap = taps.layers.get(layer, IDLE)
        before = None if memory is None else memory[layer]
        if tap is IDLE and logits == "last" and layer == len(blocks) - 1 and batch.record is None:
            stream, after = block(stream, replace(batch, keep=batch.length[:, None] - 1), tap, before)
        elif tap is IDLE:
            stream, after = block(stream, batch, tap, before)
        else:
            stream, after = through(block, stream, batch, tap, before)
        if batch.record is not None:
            if after is None and not backend.shape.causal:
                after = NOTHING
            if after is None:
                raise HookContractBroken(
                    f"block {layer} was asked to record its memory ({batch.record!r}) and returned none.", layer=layer
                )
            kept.append(after)
    stream = waiting(stream, parked, streams)
    if last_layer is not None and last_layer < len(blocks):
        return Outcome(None, tuple(kept))
    yield len(blocks)
    resid = stream.resid
    if logits == "last" and resid.shape[1] > 1:
        row = torch.arange(len(resid), device=resid.device)
        resid = resid[row, (batch.length - 1).to(resid.device)][:, None]
    return Outcome(backend.unembed(resid, taps.outside), tuple(kept))


def waiting(stream: Stream, parked: torch.device | None, streams: list[Stream] | None) -> Stream:
    """The stream between two stages: where it waits, and kept if somebody wants it."""
    stream = stream if parked is None else stream_on(stream, parked)
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
