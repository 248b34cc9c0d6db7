"""Ctrl-C that ends a training behind a step."""

from __future__ import annotations

import signal
from types import TracebackType

__all__ = ["Interrupt"]


class Interrupt:
    """Inside it the first Ctrl-C ends the training behind the current step, the second at once."""

    seen = False

    def __enter__(self) -> Interrupt:
        self.before = signal.signal(signal.SIGINT, self.note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self.before)

    def note(self, *_: object) -> None:
        """Called by Python when Ctrl-C was pressed."""
        self.seen = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __call__(self) -> bool:
        """Whether it was pressed."""
        return self.seen
