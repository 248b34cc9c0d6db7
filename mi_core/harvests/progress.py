"""How far a harvest is, and how fast: a bar where somebody watches."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

__all__ = ["ProgressBar"]


class ProgressBar:
    """A progress bar on standard error; None of it where ``shown`` is False, or nobody watches."""

    def __init__(self, total: int | None, shown: bool | None) -> None:
        self.total = total
        self.shown = sys.stderr.isatty() if shown is None else shown
        self.tokens = 0
        self._bar: Any = None
        self._task: Any = None
        self._began = 0.0

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, tokens: int, done: float) -> None:
        """So many more tokens are run, and so much of the corpus lies behind."""
        if not self.shown:
            return
        if self._bar is None:
            self._start(done)
        self.tokens += tokens
        rate = self.tokens / max(time.perf_counter() - self._began, 1e-9)
        self._bar.update(self._task, completed=done, rate=f"{rate:,.0f} tokens/s" if tokens else "")

    def _start(self, done: float) -> None:
        """Begin where the harvest goes on, so that the time left is of what is left."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
        self._bar = Progress(TextColumn("harvest"), *columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("harvest", total=self.total, completed=done, rate="")
        self._began = time.perf_counter()
        self._bar.start()
