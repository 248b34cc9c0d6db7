"""How rotary frequencies depend on a longer context: the scalings that checkpoints use.

Each is a value that fits `mi_decoder.rotary.Scaling`.

Source for all formulas: transformers 5.24, modeling_rope_utils.py, whose order of operations is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

__all__ = ["Dynamic", "Linear", "Llama3", "LongRope", "Proportional", "Unscaled", "Yarn"]


def inverse_frequencies(theta: float, n_dims: int, device: torch.device) -> Float[Tensor, "pair"]:
    """How many radians a pair of dimensions turns at each position: ``theta ** (-2j / n)``.

    Source: Su et al. 2021, arXiv:2104.09864, section 3.2.2.
    """
    return 1.0 / exponentials(theta, n_dims, device)


def exponentials(theta: float, n_dims: int, device: torch.device) -> Float[Tensor, "pair"]:
    """``theta ** (2j / n)`` in float32."""
    exponents = torch.arange(0, n_dims, 2, dtype=torch.int64, device=device).float() / n_dims
    return torch.pow(theta, exponents)


@dataclass(frozen=True)
class Unscaled:
    """The frequencies as they are."""

    attention_factor: float = 1.0

    def frequencies(self, theta: float, n_dims: int, total: Int[Tensor, "batch"]) -> Float[Tensor, "*batch pair"]:
        """Radians per position for each pair of dimensions."""
        return inverse_frequencies(theta, n_dims, total.device)

    def regime(self, total: Int[Tensor, "batch"]) -> Shaped[Tensor, "batch"] | None:  # others use it
        """The length does not matter."""
        return None

    def alike(self, positions: int) -> bool:  # others use it
        """The length does not matter."""
        return True

    def reach(self, n_ctx: int) -> int | None:
        """Positions that the model can use, where ``n_ctx`` is its ``max_position_embeddings``."""
        return n_ctx


@dataclass(frozen=True)
class Linear(Unscaled):
    """Position interpolation: all frequencies divided by ``factor``.

    Source: Chen et al. 2023, arXiv:2306.15595.
    """

    factor: float = 1.0

    def frequencies(self, theta: float, n_dims: int, total: Int[Tensor, "batch"]) -> Float[Tensor, "*batch pair"]:
        """Radians per position for each pair of dimensions."""
        return inverse_frequencies(theta, n_dims, total.device) / self.factor

    def reach(self, n_ctx: int) -> int | None:
        """``n_ctx`` may be meant before or after the scaling: checkpoints do either."""
        return math.floor(n_ctx * self.factor)


@dataclass(frozen=True)
class Dynamic(Unscaled):
    """A base that grows with the row's length once it exceeds ``original`` positions."""

    factor: float = 1.0
    original: int = 0

    def frequencies(self, theta: float, n_dims: int, total: Int[Tensor, "batch"]) -> Float[Tensor, "*batch pair"]:
        """Radians per position for each pair of dimensions, of each row."""
        growth = (self.factor * self.regime(total) / self.original) - (self.factor - 1)
        base = theta * growth ** (n_dims / (n_dims - 2))
        exponents = torch.arange(0, n_dims, 2, dtype=torch.int64, device=total.device).float() / n_dims
        return 1.0 / (base[:, None] ** exponents)

    def regime(self, total: Int[Tensor, "batch"]) -> Int[Tensor, "batch"]:
        """The length, once it exceeds the original context."""
        return total.clamp(min=self.original)

    def alike(self, positions: int) -> bool:
        """Whether none of them exceeds it."""
        return positions <= self.original

    def reach(self, n_ctx: int) -> int | None:  # the others use it
        """It scales with any length."""
        return None


@dataclass(frozen=True)
class Yarn(Unscaled):
    """High frequencies as they are, low ones divided by ``factor``, a ramp between ``beta_fast`` and ``beta_slow``.

    Source: Peng et al. 2023, arXiv:2309.00071, section 3.2.
    """

    factor: float = 1.0
    original: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True

    def frequencies(self, theta: float, n_dims: int, total: Int[Tensor, "batch"]) -> Float[Tensor, "*batch pair"]:
        """Radians per position for each pair of dimensions."""
        low, high = self.turning_point(self.beta_fast, theta, n_dims), self.turning_point(self.beta_slow, theta, n_dims)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, n_dims - 1)
        if low == high:
            high += 0.001
        pairs = torch.arange(n_dims // 2, dtype=torch.float32, device=total.device)
        kept = 1 - torch.clamp((pairs - low) / (high - low), 0, 1)
        powers = exponentials(theta, n_dims, total.device)
        return (1.0 / (self.factor * powers)) * (1 - kept) + (1.0 / powers) * kept

    def turning_point(self, rotations: float, theta: float, n_dims: int) -> float:
        """The pair that turns ``rotations`` times within the original context."""
        return n_dims * math.log(self.original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    def reach(self, n_ctx: int) -> int | None:
        """``n_ctx`` may be meant before or after the scaling: checkpoints do either."""
        return max(n_ctx, math.floor(self.original * self.factor))


@dataclass(frozen=True)
class LongRope(Unscaled):
    """One divisor for each pair: ``long`` for rows of more than ``original`` positions, ``short`` for the others.

    Source: Ding et al. 2024, arXiv:2402.13753.
    """

    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()
    original: int = 0

    def frequencies(self, theta: float, n_dims: int, total: Int[Tensor, "batch"]) -> Float[Tensor, "*batch pair"]:
        """Radians per position for each pair of dimensions, of each row."""
        powers = exponentials(theta, n_dims, total.device)
        short, long = (torch.tensor(f, dtype=torch.float32, device=total.device) for f in (self.short, self.long))
        return 1.0 / (torch.where(self.regime(total)[:, None], long, short) * powers)

    def regime(self, total: Int[Tensor, "batch"]) -> Shaped[Tensor, "batch"]:
        """Whether the row is long."""
        return total > self.original

    def alike(self, positions: int) -> bool:
        """Whether none of them is."""
        return positions <= self.original


@dataclass(frozen=True)
class Llama3(Unscaled):
    """Long wavelengths divided by ``factor``, short ones kept, a smooth change between them.

    Source: Meta's Llama 3.1 (models/llama3/reference_impl/model.py, apply_scaling).
    """

    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original: int = 0

    def frequencies(self, theta: float, n_dims: int, total: Int[Tensor, "batch"]) -> Float[Tensor, "*batch pair"]:
        """Radians per position for each pair of dimensions."""
        plain = inverse_frequencies(theta, n_dims, total.device)
        wavelength = 2 * math.pi / plain
        is_long, is_short = wavelength > self.original / self.low, wavelength < self.original / self.high
        scaled = torch.where(is_long, plain / self.factor, plain)
        smooth = (self.original / wavelength - self.low) / (self.high - self.low)
        between = (1 - smooth) * scaled / self.factor + smooth * scaled
        return torch.where(~is_long & ~is_short, between, scaled)


@dataclass(frozen=True)
class Proportional(Unscaled):
    """The first ``turning`` pairs of a whole head turn, by the frequencies that they have there; others stand still.

    Source: Gemma Team 2026, Gemma 4; transformers 5.24, _compute_proportional_rope_parameters.
    """

    turning: int = 0
    factor: float = 1.0

    def frequencies(self, theta: float, n_dims: int, total: Int[Tensor, "batch"]) -> Float[Tensor, "*batch pair"]:
        """Radians per position for each pair of dimensions."""
        plain = inverse_frequencies(theta, n_dims, total.device)
        still = torch.arange(len(plain), device=total.device) >= self.turning
        return plain.masked_fill(still, 0.0) / self.factor

    def reach(self, n_ctx: int) -> int | None:
        """``n_ctx`` may be meant before or after the scaling: checkpoints do either."""
        return math.floor(n_ctx * self.factor)
