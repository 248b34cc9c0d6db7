"""What a computation costs: its floating-point operations, and the most memory that it holds at one time.

Both are counted where PyTorch dispatches its operators, so it does not matter whether the tensors hold numbers: the
same meter reads a run and its rehearsal (`mi_core.rehearsing`).
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

__all__ = ["Cost", "Meter"]


@dataclass(frozen=True)
class Cost:
    """What a computation needs beside weights and inputs, which are there before it."""

    operations: int
    """Floating-point operations of matrix products, convolutions and attention, two for each multiply-add."""
    peak_bytes: Mapping[str, int] = field(default_factory=dict)
    """By device, the most that is held at one time: activations, captures, memory and results."""

    @property
    def peak(self) -> int:
        """The most that is held at one time on the device that holds most."""
        return max(self.peak_bytes.values(), default=0)


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch does not annotate it
    """Counts what runs inside ``with Meter() as meter``.

    Operations are those of PyTorch's own counter. Memory is that of the tensors that operators return; what a kernel
    takes and gives back inside is not seen.

    >>> with Meter() as meter:
    ...     product = torch.ones(2, 3) @ torch.ones(3, 5)
    >>> meter.cost().operations
    60

    Source: torch 2.13, utils/flop_counter.py (`FlopCounterMode`, whose formulas these are).
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0
        self._live: dict[str, int] = {}
        self._peak: dict[str, int] = {}
        self._held: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def cost(self) -> Cost:
        """What was counted so far."""
        return Cost(self.operations, dict(self._peak))

    @contextmanager
    def times(self, work: float, size: float) -> Iterator[None]:
        """What runs inside stands for more of its kind, done with it: ``work`` times as much in ``size`` the memory."""
        operations, live, peak = self.operations, dict(self._live), self._peak
        self._peak = dict(live)
        yield
        self.operations = operations + round(work * (self.operations - operations))
        for device, own in self._peak.items():
            before = live.get(device, 0)
            peak[device] = max(peak.get(device, 0), before + round(size * (own - before)))
        self._peak = peak

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """One operator."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.operations += formula(*args, **kwargs, out_val=out)
        if not aliases(func):
            own = {tensor.untyped_storage()._cdata for tensor in tensors_of(args)}
            for tensor in tensors_of((out,)):
                storage = tensor.untyped_storage()
                if storage._cdata not in own:
                    self._hold(storage, str(tensor.device))
        return out

    def _hold(self, storage: torch.UntypedStorage, device: str) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._held:
            return

        def freed(_: object) -> None:
            if self._held.pop(key, None) is not None:
                self._live[device] -= size

        self._held[key] = weakref.ref(storage, freed)
        self._live[device] = self._live.get(device, 0) + size
        self._peak[device] = max(self._peak.get(device, 0), self._live[device])


@cache
def aliases(func: Any) -> bool:
    """Whether an operator returns views of what it was given, or that itself."""
    return any(returned.alias_info is not None for returned in func._schema.returns)


def tensors_of(values: Sequence[Any]) -> Iterator[Tensor]:
    """The tensors among some values and lists of values."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from tensors_of(value)
