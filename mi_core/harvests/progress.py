"""How far a harvest is, and how fast: a bar in a terminal, a line from time to time where output is written down."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Final

__all__ = ["ProgressBar"]

EVERY: Final = 30.0
"""Seconds from one line to the next, where there is no terminal."""


class ProgressBar:
    """Progress on standard error; None of it where ``shown`` is False, or is None and there is no terminal."""

    def __init__(self, total: int | None, shown: bool | None, processes: int = 1) -> None:
        self.total = total
        self.watched = sys.stderr.isatty()
        self.shown = self.watched if shown is None else shown
        self.processes = processes
        """How many go at the rate of this one."""
        self.tokens = 0
        self._bar: Any = None
        self._task: Any = None
        self._began = self._first = self._last = 0.0

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, lines: Sequence[str]) -> None:
        """Tell whoever watches."""
        if self.shown:
            print(*(f"harvest: {line}" for line in lines), sep="\n", file=sys.stderr, flush=True)

    def advance(self, tokens: int, done: float) -> None:
        """So many more tokens are run, and so much of the corpus lies behind."""
        if not self.shown:
            return
        now = time.perf_counter()
        if self._began == 0.0:  # where the harvest goes on, so that the time left is of what is left
            self._began, self._first, self._last = now, done, now
            self._start(done)
        self.tokens += tokens
        rate = f"{self.processes * self.tokens / max(now - self._began, 1e-9):,.0f} tokens/s" if self.tokens else ""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, rate=rate)
        elif now - self._last >= EVERY:
            self._last = now
            self.say([", ".join(filter(None, (self._share(done), rate, self._left(now, done))))])

    def _share(self, done: float) -> str:
        return f"{done / self.total:.1%}" if self.total else f"{done:,.0f} documents"

    def _left(self, now: float, done: float) -> str:
        """The time that is left, at the rate until now."""
        if not self.total or done <= self._first:
            return ""
        seconds = (now - self._began) * (self.total - done) / (done - self._first)
        return f"{timedelta(seconds=round(seconds))} left"

    def _start(self, done: float) -> None:
        """Begin a bar, where there is a terminal."""
        if not self.watched:
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
        self._bar = Progress(TextColumn("harvest"), *columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("harvest", total=self.total, completed=done, rate="")
        self._bar.start()
