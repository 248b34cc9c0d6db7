"""Contrast-consistent search: a direction in which a statement and its negation have opposite truth, without labels.

Source: Burns et al. 2022, "Discovering Latent Knowledge in Language Models Without Supervision" (arXiv:2212.03827):
each side is normalised by itself; the loss is consistency plus confidence; the best of several starts by that loss.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.errors import InputError
from mi_probing.tasks import Linear

__all__ = ["contrast_consistent", "contrast_score"]


def contrast_consistent(
    positive: Float[Tensor, "cell example d"],
    negative: Float[Tensor, "other_cell other_example other_d"],
    *,
    starts: int = 10,
    steps: int = 1000,
    learning_rate: float = 1e-2,
    weight_decay: float = 1e-2,
    seed: int = 0,
) -> tuple[Linear, Linear]:
    """Probes on activations of statements, and the same on those of their negations; all cells and starts at once.

    They differ in bias and scale only, as each side is normalised by itself. Without labels nothing says which end of
    the direction is true: `contrast_score` tells both.

    Raises:
        InputError: the two sides are no pairs, or fewer than two.
    """
    if positive.shape != negative.shape or positive.shape[1] < 2:
        raise InputError(
            f"contrast pairs: {list(positive.shape)} and {list(negative.shape)}; give two or more pairs, each with a "
            "row on both sides."
        )
    sides = [positive.float(), negative.float()]
    mean = [side.mean(1, keepdim=True) for side in sides]
    scale = [side.std(1, keepdim=True, correction=0).clamp_min(1e-6) for side in sides]
    x, y = ((side - m) / s for side, m, s in zip(sides, mean, scale, strict=True))
    cells, d = len(x), x.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(cells, starts, d, generator=generator).to(x) / d**0.5
    weight, bias = weight.requires_grad_(), x.new_zeros(cells, starts, 1).requires_grad_()
    optimiser = torch.optim.AdamW([weight, bias], lr=learning_rate, weight_decay=weight_decay)

    def losses() -> Float[Tensor, "cell start"]:
        true = (weight @ x.transpose(1, 2) + bias).sigmoid()
        false = (weight @ y.transpose(1, 2) + bias).sigmoid()
        both: Tensor = (true - (1 - false)) ** 2 + torch.minimum(true, false) ** 2
        return both.mean(-1)

    with torch.enable_grad():
        for _ in range(steps):
            optimiser.zero_grad()
            losses().sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    with torch.no_grad():
        best = losses().argmin(1)
    rows = torch.arange(cells, device=x.device)
    chosen, at = weight.detach()[rows, best][:, None, None], bias.detach()[rows, best][:, None]
    first, second = (
        Linear(chosen / s[:, None], at - (chosen / s[:, None] * m[:, None]).sum(-1))
        for m, s in zip(mean, scale, strict=True)
    )
    return first, second


def contrast_score(
    probes: tuple[Linear, Linear],
    positive: Float[Tensor, "cell example d"],
    negative: Float[Tensor, "cell example d"],
    truth: Float[Tensor, "example"],
) -> Float[Tensor, "cell"]:
    """The share of pairs that are judged right, with the end of the direction that fits the labels better."""
    true, false = (
        one.outputs(side)[:, 0, :, 0].sigmoid() for one, side in zip(probes, (positive, negative), strict=True)
    )
    said = (true + 1 - false) / 2 > 0.5
    right = (said == (truth > 0).to(said.device)).float().mean(-1)
    return torch.maximum(right, 1 - right)
