"""A side stream for machines without an accelerator, which makes every copy as late as it may."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Late", "LateMark"]


@dataclass(eq=False)
class LateMark:
    """A place in the side stream's work, or (``at`` is None) in the computation, which never lags behind the host."""

    side: Late
    at: int | None

    def synchronize(self) -> None:
        """Make the copies before it."""
        self.side.log.append(("host waits", self.at))
        self.side.reach(self)


@dataclass(eq=False)
class Late:
    """Copies are made when somebody waits for a mark behind them, and their targets hold rubbish until then.

    So whoever reads too early, or fills a source again too early, gets other numbers.
    """

    copies: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    made: int = 0
    log: list[tuple[str, int | None]] = field(default_factory=list)
    used_here: set[int] = field(default_factory=set)
    """Where the storages lie that the computation said it uses."""
    used_beside: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._inside = threading.local()

    @property
    def _beside(self) -> bool:
        return getattr(self._inside, "on", False)

    def locked(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype)

    @contextmanager
    def beside(self) -> Iterator[None]:
        self._inside.on = True
        try:
            yield
        finally:
            self._inside.on = False

    def copy(self, target: Tensor, source: Tensor) -> None:
        assert self._beside, "a copy in the stream of the computation"
        with self._lock:
            target.fill_(255 if target.dtype == torch.uint8 else torch.nan)
            self.copies.append((target, source))
            self.log.append(("copy", len(self.copies)))

    def mark(self) -> LateMark:
        found = LateMark(self, len(self.copies) if self._beside else None)
        self.log.append(("mark", found.at))
        return found

    def wait(self, mark: LateMark) -> None:
        self.log.append(("waits beside" if self._beside else "waits here", mark.at))
        if not self._beside:
            self.reach(mark)

    def used(self, tensor: Tensor) -> None:
        (self.used_beside if self._beside else self.used_here).add(tensor.untyped_storage().data_ptr())

    def reach(self, mark: LateMark) -> None:
        """Make the copies before a mark."""
        with self._lock:
            while self.made < (mark.at or 0):
                target, source = self.copies[self.made]
                target.copy_(source)
                self.copies[self.made] = (torch.empty(0), torch.empty(0))
                self.made += 1
