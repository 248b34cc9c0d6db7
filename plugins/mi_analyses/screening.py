"""Screening: estimates choose the cells that are worth an exact run, and a random sample says what they miss.

Source: Nanda 2023, "Attribution Patching"; Kramar et al. 2024, arXiv:2403.00745, section 3.2 (a random sample beside
the largest estimates bounds what was overlooked).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

import mi_core as mi
from mi_analyses.first_order import Comparison
from mi_core.labelled import Labelled

__all__ = ["Patches", "Screening", "rank_correlation", "screened"]

LARGE, DRAWN = 1, 2


@dataclass(frozen=True, eq=False)
class Patches:
    """What a cell's exact run is."""

    compared: Comparison
    given: mi.Run
    """Where the patches come from."""
    points: str
    gap: Float[Tensor, "batch"]
    """The metric of that run less that of the one that is patched."""

    def effects(self, cells: list[dict[str, int]], batch: Any, progress: bool | None) -> Float[Tensor, "cell batch"]:
        """What each patch does, in parts of what the whole other prompt does."""

        def patch(cell: int) -> mi.HookSpec:
            return mi.intervene(self.points, mi.Replace(self.given).at(**cells[cell]))

        compared = self.compared
        grid = compared.base.spec + mi.grid(patch, cell=range(len(cells)))
        swept = compared.model.sweep(
            compared.base.inputs, grid, compared.metric, batch=batch, progress=progress, **compared.options
        )
        assert swept.baseline is not None
        return (swept.values - swept.baseline.values) / self.gap


@dataclass(frozen=True, eq=False)
class Screening:
    """What was run exactly; see the fields of the same names in `AttributionPatching`."""

    exact: Labelled | None = None
    exacts: Labelled | None = None
    chosen: Labelled | None = None
    rank_correlation: float | None = None


def screened(
    patches: Patches,
    estimate: Labelled,
    layers: Sequence[int],
    largest: int,
    drawn: int,
    seed: int,
    *,
    unsigned: bool = False,
    batch: Any = "auto",
    progress: bool | None = None,
) -> Screening:
    """Run the cells with the largest estimates, and some drawn from all; ``unsigned``: estimates are sizes."""
    flat = estimate.values.flatten()
    sample = torch.randperm(len(flat), generator=torch.Generator().manual_seed(seed))[:drawn]
    why = torch.zeros(len(flat), dtype=torch.long)
    why[flat.abs().topk(min(largest, len(flat))).indices] |= LARGE
    why[sample] |= DRAWN
    places = why.nonzero()[:, 0]
    coords = [torch.unravel_index(place, estimate.values.shape) for place in places]
    cells = [{dim: int(at) for dim, at in zip(estimate.dims, place, strict=True)} for place in coords]
    cells = [{**cell, "layer": layers[cell["layer"]]} for cell in cells]
    effects = torch.full((len(flat), len(patches.gap)), torch.nan)
    effects[places] = patches.effects(cells, batch, progress)
    shape = estimate.values.shape
    exacts = Labelled(effects.reshape(*shape, -1), (*estimate.dims, "batch"), estimate.coords, "effect")
    exact = exacts.mean("batch").values.flatten()[sample]
    return Screening(
        exact=exacts.mean("batch"),
        exacts=exacts,
        chosen=Labelled(why.reshape(shape), estimate.dims, estimate.coords, "why it was run"),
        rank_correlation=rank_correlation(flat[sample], exact.abs() if unsigned else exact),
    )


def rank_correlation(one: Float[Tensor, "n"], other: Float[Tensor, "n"]) -> float | None:
    """Spearman's: Pearson's correlation of the ranks, equal numbers sharing theirs.

    Numbers are equal where a hundred thousandth of the largest does not tell them apart: most cells change nothing, and
    how rounding orders those is no order. None for fewer than three numbers, or where all are equal.

    >>> rank_correlation(torch.tensor([1.0, 2.0, 30.0]), torch.tensor([0.1, 0.2, 0.3]))
    1.0
    """
    one, other = in_steps(one), in_steps(other)
    if len(one) < 3 or bool((one == one[0]).all()) or bool((other == other[0]).all()):
        return None
    return round(float(torch.corrcoef(torch.stack([shared_ranks(one), shared_ranks(other)]))[0, 1]), 6)


def in_steps(values: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Numbers without what rounding leaves of them: in whole steps of a hundred thousandth of the largest."""
    step = values.abs().max() * 1e-5 if len(values) else 0.0
    return (values / step).round() if step > 0 else values


def shared_ranks(values: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """The rank of each number; equal ones have the mean of theirs."""
    below: Int[Tensor, "n"] = (values[None] < values[:, None]).sum(1)
    equal: Int[Tensor, "n"] = (values[None] == values[:, None]).sum(1)
    return below.double() + (equal.double() - 1) / 2
