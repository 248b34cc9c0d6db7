"""How large are activations? The factor by which they are scaled for a training, and their mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Scale"]


@dataclass(frozen=True, eq=False)
class Scale:
    """The factor and the mean (of what is scaled) of each point."""

    factors: tuple[float, ...]
    means: tuple[Float[Tensor, "width"], ...]

    @classmethod
    def estimated(cls, tokens: Float[Tensor, "token width"], widths: tuple[int, ...], *, factors: bool) -> Scale:
        """From the activations of some tokens: factors ``sqrt(width) / mean norm``, or ones.

        Source: SAELens 6.54, training/activation_scaler.py, ``estimate_scaling_factor``.
        """
        parts = torch.split(tokens, list(widths), dim=1)
        found = [
            width**0.5 / float(part.double().norm(dim=1).mean()) if factors else 1.0
            for part, width in zip(parts, widths, strict=True)
        ]
        means = [(part.double().mean(0) * factor).float() for part, factor in zip(parts, found, strict=True)]
        return cls(tuple(found), tuple(means))

    def apply(self, tokens: Float[Tensor, "token width"], widths: tuple[int, ...]) -> tuple[Tensor, ...]:
        """The points apart, scaled."""
        return tuple(
            part if factor == 1 else part * factor
            for part, factor in zip(torch.split(tokens, list(widths), dim=1), self.factors, strict=True)
        )

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        means = {f"mean.{index}": mean for index, mean in enumerate(self.means)}
        return {"factors": torch.tensor(self.factors, dtype=torch.float64), **means}

    @classmethod
    def read(cls, tensors: dict[str, Tensor]) -> Scale:
        """From a checkpoint."""
        means = tuple(tensors[f"mean.{index}"] for index in range(len(tensors) - 1))
        return cls(tuple(tensors["factors"].tolist()), means)
