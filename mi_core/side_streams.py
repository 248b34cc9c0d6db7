"""Copies between host and accelerator beside the computation: all that they wait for goes through here."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["CudaSide", "Mark", "SideStream", "side_stream"]


class Mark(Protocol):
    """A place in a stream of work: reached when everything before it is done."""

    def synchronize(self) -> None:
        """Let the host wait for it."""
        ...


class SideStream(Protocol):
    """A second stream of work on an accelerator; "here" is the stream in force, of the computation outside ``beside``.

    Who uses a tensor here that was made beside, or the other way round, waits for a mark behind what filled it, and
    says ``used``, so that its memory is not given to others while the stream in force still uses it.
    """

    def locked(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Host memory from and to which copies run beside the host."""
        ...

    def beside(self) -> AbstractContextManager[object]:
        """Meanwhile the second stream is in force, in this thread."""
        ...

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy when it is its turn here; the host does not wait."""
        ...

    def mark(self) -> Mark:
        """Behind everything that was asked for here so far."""
        ...

    def wait(self, mark: Mark) -> None:
        """Let what comes here wait for a mark of another stream; the host does not wait."""
        ...

    def used(self, tensor: Tensor) -> None:
        """Keep a tensor's memory from others until what was asked for here, when it is let go, is done."""
        ...


class CudaSide:
    """A side stream of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def locked(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Page-locked memory; ordinary memory, whose copies make the host wait, where the system has no more."""
        try:
            return torch.empty(shape, dtype=dtype, pin_memory=True)
        except RuntimeError:
            return torch.empty(shape, dtype=dtype)

    def beside(self) -> AbstractContextManager[object]:
        """Meanwhile the second stream is in force, in this thread."""
        return torch.cuda.stream(self._stream)

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy when it is its turn here."""
        target.copy_(source, non_blocking=True)

    def mark(self) -> Mark:
        """An event on the stream in force."""
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event

    def wait(self, mark: Mark) -> None:
        """Let the stream in force wait for an event."""
        assert isinstance(mark, torch.cuda.Event)
        torch.cuda.current_stream(self.device).wait_event(mark)

    def used(self, tensor: Tensor) -> None:
        """Tell the allocator."""
        tensor.record_stream(torch.cuda.current_stream(self.device))


def side_stream(device: torch.device) -> SideStream | None:
    """That of a device; None for devices whose copies are made by whoever computes."""
    return CudaSide(device) if device.type == "cuda" else None
