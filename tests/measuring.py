"""What a computation really took: operations by PyTorch's counter, memory by the allocator's own account."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def operations_of(function: Callable[[], Any]) -> int:
    """Floating-point operations."""
    with FlopCounterMode(display=False) as counter:
        function()
    return int(counter.get_total_flops())


def peak_of(function: Callable[[], Any]) -> int:
    """The most bytes that the CPU's allocator gave out at one time, beyond what it had given out before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        kept = function()
    del kept
    changes: list[tuple[int, int]] = []

    def collect(events: Any) -> None:
        for event in events:
            if event.name == "[memory]":
                changes.append((event.start_time_ns, event.extra_fields.alloc_size))
            collect(event.children)

    collect(profile.profiler.kineto_results.experimental_event_tree())
    held = peak = 0
    for _, size in sorted(changes, key=lambda change: change[0]):
        held += size
        peak = max(peak, held)
    return peak
