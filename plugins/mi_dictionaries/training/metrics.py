"""What a training says on its way: JSON lines in a file, and one line in a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["Display", "MetricLines"]

FILE = "metrics.jsonl"
SHOWN = {"mse_loss": "error", "explained_variance": "explained", "l0": "L0", "dead": "dead"}
"""What the terminal shows of a line, and under which name."""


class MetricLines:
    """One JSON object a line. A training that goes on from a step drops what an earlier one wrote behind it."""

    def __init__(self, folder: Path | None, done: int) -> None:
        self.path = None if folder is None else folder / FILE
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= done]
        self.path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def write(self, measured: Mapping[str, float]) -> None:
        """Append a line."""
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(measured) + "\n")


class Display:
    """A progress bar on standard error with the last measures; nothing where ``shown`` is False or nobody watches."""

    def __init__(self, steps: int, done: int, shown: bool | None) -> None:
        self.bar: Any = None
        if not (sys.stderr.isatty() if shown is None else shown):
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[measured]}"), TimeRemainingColumn())
        self.bar = Progress(TextColumn("train"), *columns, console=Console(stderr=True), transient=True)
        self.task = self.bar.add_task("train", total=steps, completed=done, measured="")

    def __enter__(self) -> Display:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def step(self, done: int) -> None:
        """So many steps are done."""
        if self.bar is not None:
            self.bar.update(self.task, completed=done)

    def measured(self, measured: Mapping[str, float]) -> None:
        """Show the last measures."""
        if self.bar is not None:
            shown = (f"{label} {measured[name]:.4g}" for name, label in SHOWN.items() if name in measured)
            self.bar.update(self.task, measured="  ".join((*shown, f"{measured['tokens_per_second']:,.0f} tokens/s")))
