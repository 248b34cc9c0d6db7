"""Random numbers that are a function of seed, row, real position and element: batching and packing change nothing.

Source: Steele, Lea and Flood 2014, "Fast Splittable Pseudorandom Number Generators" (the SplitMix64 finaliser);
Box and Muller 1958 for normal numbers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

if TYPE_CHECKING:
    from mi_core.scene import Scene

__all__ = ["mixed", "normal_like", "picked_rows"]


def signed(value: int) -> int:
    """A 64-bit pattern as a signed integer."""
    return value - (1 << 64) if value >= 1 << 63 else value


GOLDEN, FIRST, SECOND = signed(0x9E3779B97F4A7C15), signed(0xBF58476D1CE4E5B9), signed(0x94D049BB133111EB)


def shifted(x: Tensor, by: int) -> Tensor:
    """A logical right shift of 64-bit patterns."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def mixed(x: Int[Tensor, "*any"]) -> Int[Tensor, "*any"]:
    """Well-mixed 64 bits for each counter."""
    x = x * GOLDEN + GOLDEN
    x = (x ^ shifted(x, 30)) * FIRST
    x = (x ^ shifted(x, 27)) * SECOND
    return x ^ shifted(x, 31)


def uniform(bits: Int[Tensor, "*any"]) -> Tensor:
    """Numbers in (0, 1) from 64 bits."""
    return (shifted(bits, 11).double() + 0.5) / (1 << 53)


def normal_like(x: Tensor, seed: int, scene: Scene) -> Tensor:
    """Standard normal numbers for the gathered entries ``x``, in its dtype."""
    key = mixed(torch.tensor(seed, dtype=torch.long))
    for dim in scene.dims:
        key = mixed(key + scene.coordinates(dim, x))
    key = key.expand(x.shape)
    radius = torch.sqrt(-2 * torch.log(uniform(mixed(key))))
    angle = 2 * math.pi * uniform(mixed(key + 1))
    return (radius * torch.cos(angle)).to(dtype=x.dtype).to(x.device)


def picked_rows(seed: int, rows: Int[Tensor, "rows"], among: int) -> Int[Tensor, "rows"]:
    """For each row a row number below ``among``, by seed and row alone."""
    return shifted(mixed(mixed(torch.tensor(seed, dtype=torch.long)) + rows), 1) % among
