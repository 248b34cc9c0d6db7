"""What flows between layers, on another device."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mi_core.protocols import Batch, Memory, Part, Stream

__all__ = ["batch_on", "memory_on", "stream_on"]


def stream_on(stream: Stream, device: torch.device) -> Stream:
    """A stream on a device; itself if it is there."""
    if stream.resid.device == device:
        return stream
    return Stream(stream.resid.to(device), {name: value.to(device) for name, value in stream.side.items()})


def memory_on(memory: Memory | None, device: torch.device) -> Memory | None:
    """A memory on a device; itself if it is there."""
    if memory is None or all(tensor.device == device for tensor in memory.tensors().values()):
        return memory
    return memory.to(device)


def batch_on(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device; itself if it is there. What does not change between layers is moved once for each call."""
    if batch.positions.device == device:
        return batch

    def moved() -> Batch:
        return Batch(
            inputs=batch.inputs.to(device),
            start=batch.start.to(device),
            length=batch.length.to(device),
            total=batch.total.to(device),
            positions=batch.positions.to(device),
            parts=tuple(Part(batch_on(part.batch, device), memory_on(part.memory, device)) for part in batch.parts),
        )

    there: Batch = batch.once(("on", device), moved)
    keep = None if batch.keep is None else batch.keep.to(device)
    record = batch.record.to(device) if isinstance(batch.record, Tensor) else batch.record
    return replace(there, keep=keep, record=record)
