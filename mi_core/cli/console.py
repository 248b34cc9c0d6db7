"""Where commands print: standard output for results, standard error for what went wrong."""

from __future__ import annotations

from rich.console import Console

__all__ = ["output", "problems"]


def output() -> Console:
    """Standard output: coloured in a terminal, plain in a pipe, in the width of the terminal or of ``COLUMNS``."""
    return Console(highlight=False)


def problems() -> Console:
    """Standard error; messages are as long as they are, so that what reads them finds whole lines."""
    return Console(stderr=True, highlight=False, soft_wrap=True)
