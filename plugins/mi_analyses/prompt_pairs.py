"""Two prompts side by side: which of them is patched, whether their positions belong together, where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import mi_core as mi
from mi_core.errors import SelectorError
from mi_core.labelled import visible

__all__ = ["Side", "aligned", "check_lengths", "two_sides"]

SPANS = 'Use prompts cut into as many tokens, or name spans: each={"layer": None, "pos": {"subject": mi.Span(...)}}.'


@dataclass(frozen=True, eq=False)
class Side:
    """Prompts, and what is done to them."""

    name: str
    """``"clean"`` or ``"corrupt"``."""
    inputs: Any
    spec: mi.HookSpec


def two_sides(clean: Any, corrupt: Any, noising: bool) -> tuple[Side, Side]:
    """The side that is patched, and the one that the patches come from; ``corrupt`` may be a spec for the clean one."""
    edited = isinstance(corrupt, mi.HookSpec)
    one = Side("clean", clean, mi.HookSpec())
    other = Side("corrupt", clean if edited else corrupt, corrupt if edited else mi.HookSpec())
    return (one, other) if noising else (other, one)


def check_lengths(clean: Sequence[Sequence[str]], corrupt: Sequence[Sequence[str]], way_out: str = SPANS) -> None:
    """Refuse pairs that are cut into different numbers of tokens; ``way_out`` says what to do.

    Raises:
        SelectorError: a pair is, or there are more prompts on one side; the message aligns the two.
    """
    if len(clean) != len(corrupt):
        raise SelectorError(
            f"{len(clean)} clean prompts and {len(corrupt)} corrupt ones: give as many, pair by pair.",
            clean=len(clean),
            corrupt=len(corrupt),
        )
    for row, (one, other) in enumerate(zip(clean, corrupt, strict=True)):
        if len(one) != len(other):
            raise SelectorError(
                f"pair {row}: the clean prompt is {len(one)} tokens and the corrupt one {len(other)}, so their "
                f"positions do not belong together.\n{aligned(one, other)}\n{way_out}",
                row=row,
            )


def aligned(one: Sequence[str], other: Sequence[str]) -> str:
    """Two tokenisations, one above the other, with signs under what differs.

    >>> print(aligned(["of", " France", " is"], ["of", " San", " Marino", " is"]))
    clean    of  ·France           ·is
    corrupt  of  ·San     ·Marino  ·is
                 ^^^^^^^  ^^^^^^^
    """
    columns: list[tuple[str, str]] = []
    differ: list[bool] = []
    for kind, a, b, c, d in SequenceMatcher(None, list(one), list(other), autojunk=False).get_opcodes():
        for place in range(max(b - a, d - c)):
            mine = visible(one[a + place]) if a + place < b else ""
            theirs = visible(other[c + place]) if c + place < d else ""
            columns.append((mine, theirs))
            differ.append(kind != "equal")
    widths = [max(map(len, column)) for column in columns]
    lines = [
        label + "  ".join(column[side].ljust(width) for column, width in zip(columns, widths, strict=True))
        for side, label in ((0, "clean    "), (1, "corrupt  "))
    ]
    marks = "  ".join(("^" if differs else " ") * width for differs, width in zip(differ, widths, strict=True))
    return "\n".join(line.rstrip() for line in (*lines, " " * 9 + marks))
