"""Assertions that say what was seen, what should be, and the call."""

from __future__ import annotations

import math
from typing import NoReturn

import torch
from torch import Tensor

from mi_core.errors import CheckFailed

__all__ = ["expect", "expect_equal", "expect_zero", "largest", "refuse"]


def refuse(what: str, *, seen: object, wanted: object, call: str) -> NoReturn:
    """The one way in which a check fails."""
    raise CheckFailed(
        f"{what}\n  seen:   {seen}\n  wanted: {wanted}\n  call:   {call}",
        what=what,
        seen=seen,
        wanted=wanted,
        call=call,
    )


def expect(holds: bool, what: str, *, seen: object, wanted: object, call: str) -> None:
    """Refuse what does not hold."""
    if not holds:
        refuse(what, seen=seen, wanted=wanted, call=call)


def largest(value: Tensor) -> float:
    """The largest finite absolute value, at least the smallest normal number.

    >>> largest(torch.tensor([-2.0, math.inf]))
    2.0
    """
    finite = value.detach().double()
    finite = finite[finite.isfinite()].abs()
    return max(float(finite.max()), 1e-30) if finite.numel() else 1e-30


def expect_equal(seen: Tensor, wanted: Tensor, what: str, *, call: str, tolerance: float = 0.0) -> None:
    """Refuse a tensor that differs from what it should be.

    ``tolerance`` 0 means bit for bit; else the difference may be so much of the largest wanted value (of 1, if that is
    larger). Infinities must be equal; NaN equals nothing.
    """
    if seen.shape != wanted.shape:
        refuse(f"{what}: the shapes differ.", seen=list(seen.shape), wanted=list(wanted.shape), call=call)
    if torch.equal(seen, wanted):
        return
    one, other = seen.detach().double(), wanted.detach().to(seen.device).double()
    difference = torch.where(one == other, 0.0, (one - other).abs()).nan_to_num(nan=math.inf)
    bound = tolerance * max(1.0, largest(other)) if tolerance else 0.0
    worst = float(difference.max())
    if worst <= bound:
        return
    place = [int(index) for index in torch.unravel_index(difference.argmax(), difference.shape)]
    allowed = f"at most {bound:.3g}" if tolerance else "none: bit for bit"
    refuse(
        f"{what}: the largest difference is {worst:.3g}, allowed is {allowed}.",
        seen=f"{float(one[tuple(place)]):.8g} at {place} of {list(seen.shape)}",
        wanted=f"{float(other[tuple(place)]):.8g}",
        call=call,
    )


def expect_zero(seen: Tensor, what: str, *, call: str) -> None:
    """Refuse anything but exact zeros."""
    expect_equal(seen, torch.zeros_like(seen), what, call=call)
