"""What is known of a logistic loss before it is descended: its curvature is near a multiple of the Gram matrix.

A quarter of the Gram matrix of the examples bounds the curvature for two classes (Böhning 1992, "Multinomial logistic
regression algorithm"); with the penalty beside it, it turns hundreds of iterations into about ten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_probing.gram import gram_of

__all__ = ["Preconditioner"]

WIDEST = 4096
"""Features beyond which an inverse costs more than it spares."""
CURVATURE = 0.25
"""The most that one example's loss bends."""


@dataclass(frozen=True, eq=False)
class Preconditioner:
    """Inverses of the curvature's bound. Tasks whose penalties are near each other share one: it need not be exact."""

    inverses: Sequence[tuple[Float[Tensor, "cell d d"], Bool[Tensor, "cell task"]]]
    """Each with the cells and tasks that it is for."""
    outputs: int

    @classmethod
    def of(
        cls, x: Float[Tensor, "cell example d"], ridge: Float[Tensor, "cell task"], outputs: int
    ) -> Preconditioner | None:
        """Of standardised activations, and of penalties beside a mean loss; None where there are too many features."""
        if x.shape[-1] > WIDEST:
            return None
        bound = CURVATURE * gram_of(x) / x.shape[1]
        # rounded to powers of four; the floor keeps it positive where examples are fewer than features
        level = (ridge.clamp_min(1e-7).log2() / 2).round()
        eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        held = []
        for one in torch.unique(level).tolist():
            factor = torch.linalg.cholesky(bound + 4.0**one * eye)
            held.append((torch.cholesky_inverse(factor), level == one))
        return cls(held, outputs)

    def only(self, tasks: list[int]) -> Preconditioner:
        """For some of the tasks."""
        return Preconditioner([(inverse, chosen[:, tasks]) for inverse, chosen in self.inverses], self.outputs)

    def __call__(self, vector: Float[Tensor, "cell task p"]) -> Float[Tensor, "cell task p"]:
        """The product with the inverse, of weights and bias of each output in turn."""
        parted = vector.reshape(*vector.shape[:2], self.outputs, -1)
        weight, bias = parted[..., :-1], parted[..., -1:]
        solved = torch.zeros_like(weight)
        for inverse, chosen in self.inverses:
            some = chosen.any(0).nonzero()[:, 0]
            if len(some):
                given = weight[:, some]
                made = (given.flatten(1, 2) @ inverse).reshape(given.shape)
                solved[:, some] = torch.where(chosen[:, some, None, None], made, solved[:, some])
        return torch.cat([solved, bias / CURVATURE], -1).flatten(2)
