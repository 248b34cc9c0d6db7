"""How much memory each phase of a piece of work took: before, after and at its peak, on the host and every device."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

__all__ = ["MemoryReport", "Phase", "host_memory"]

EVERY = 0.005
"""Seconds between two looks at the host's memory."""
STATUS = Path("/proc/self/status")
HOST = {"VmRSS": "host", "RssAnon": "host, own", "RssFile": "host, files"}
"""Resident memory; of it, what is in no file, and pages of mapped files, which the system takes back if need be."""


@dataclass(frozen=True)
class Phase:
    """Bytes by place."""

    name: str
    before: Mapping[str, int]
    after: Mapping[str, int]
    peak: Mapping[str, int]
    seconds: float

    @property
    def growth(self) -> dict[str, int]:
        """How far each place rose above what it had before."""
        return {place: peak - self.before.get(place, 0) for place, peak in self.peak.items()}


@dataclass(eq=False)
class MemoryReport:
    """What was measured, phase by phase.

    >>> memory = MemoryReport()
    >>> with memory.phase("make"):
    ...     made = torch.ones(16_000_000)
    >>> memory["make"].growth["host"] > 50_000_000
    True

    ``"host"`` is the resident memory of the process; ``"host, own"`` and ``"host, files"`` are its parts where the
    system tells them (Linux). The host is looked at every five milliseconds, so its peak is a lower bound; that of a
    CUDA device is the allocator's own.
    """

    phases: list[Phase] = field(default_factory=list)

    def __getitem__(self, name: str) -> Phase:
        """The latest phase of a name."""
        return next(phase for phase in reversed(self.phases) if phase.name == name)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what is done inside, under a name."""
        devices = range(torch.cuda.device_count()) if initialised() else range(0)
        for device in devices:
            torch.cuda.reset_peak_memory_stats(device)
        began, before = time.perf_counter(), {**host_memory(), **devices_memory()}
        watch = Watch()
        watch.start()
        try:
            yield
        finally:
            watch.stop()
            seconds, after = time.perf_counter() - began, {**host_memory(), **devices_memory()}
            peak = {place: max(size, before.get(place, 0), watch.peak.get(place, 0)) for place, size in after.items()}
            self.phases.append(Phase(name, before, after, {**peak, **devices_memory(peak=True)}, seconds))

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("phase", "place", "before", "after", "peak", "seconds")]
        for phase in self.phases:
            for place in phase.peak:
                sizes = (megabytes(of.get(place, 0)) for of in (phase.before, phase.after, phase.peak))
                rows.append((phase.name, place, *sizes, f"{phase.seconds:.2f}"))
        wide = [max(len(row[column]) for row in rows) for column in range(6)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if column < 2 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, wide, strict=True))
            )
            for row in rows
        )


class Watch(threading.Thread):
    """Looks at the host's memory now and then, and keeps the most that it saw."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = host_memory()
        self._over = threading.Event()

    def run(self) -> None:
        """Look until it is over."""
        while not self._over.wait(EVERY):
            for place, size in host_memory().items():
                self.peak[place] = max(size, self.peak[place])

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self.join()


def host_memory() -> dict[str, int]:
    """Resident bytes of this process now."""
    if STATUS.exists():
        lines = (line.partition(":") for line in STATUS.read_text(encoding="ascii").splitlines())
        return {HOST[key]: 1024 * int(value.split()[0]) for key, _, value in lines if key in HOST}
    import psutil  # type: ignore[import-untyped]  # comes with accelerate

    return {"host": int(psutil.Process().memory_info().rss)}


def devices_memory(*, peak: bool = False) -> dict[str, int]:
    """Bytes that are allocated on each CUDA device now, or the most since its peak was reset."""
    if not initialised():
        return {}
    read = torch.cuda.max_memory_allocated if peak else torch.cuda.memory_allocated
    return {f"cuda:{device}": read(device) for device in range(torch.cuda.device_count())}


def initialised() -> bool:
    """Whether anybody has used CUDA in this process."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def megabytes(size: int) -> str:
    """Bytes for a table.

    >>> megabytes(1_234_567_890)
    '1,234.6 MB'
    """
    return f"{size / 1e6:,.1f} MB"
