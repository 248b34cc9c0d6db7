"""Is what a probe reads used? Activations are moved along its direction, and the answer is watched.

As a control the same is done along random directions, by the same length. A probe whose direction moves the answer no
more than those reads something that the model does not use there, or that it holds elsewhere, too.

Source: Elazar et al. 2021, "Amnesic Probing" (arXiv:2006.00995), for the question; Ravfogel et al. 2020 for removal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

import mi_core as mi
from mi_analyses.activation_patching import plain
from mi_core.errors import InputError
from mi_core.labelled import Labelled
from mi_core.results import Result, ResultProvenance
from mi_probing.probe import Probe

__all__ = ["CausalCheck", "causal_check"]


@dataclass(frozen=True, kw_only=True, eq=True)
class CausalCheck(Result):
    """The metric under each dose along the probe's direction and along random ones."""

    response: Labelled
    """Axes: direction (the probe, then random ones), gaps, batch."""
    baseline: Labelled
    """The metric of the model as it is: batch."""
    removed: Labelled
    """The metric with the direction projected out at the probe's point: direction, batch."""
    gap: float
    """How long one dose is, in units of the activation."""
    probe: str
    """The probe, in words."""

    title: ClassVar[str] = "Causal check of a probe"
    template: ClassVar[str] = "mi_probing/with_charts.html"
    views: ClassVar[str] = "mi_probing.causal_check_view"

    @property
    def effect(self) -> Labelled:
        """What one gap does to the mean metric, as the slope of a line through all doses: direction."""
        means = self.response.values.mean(-1)
        doses = torch.tensor(self.response.coords["gaps"], dtype=means.dtype)
        doses = doses - doses.mean()
        slope = (means * doses).sum(-1) / (doses * doses).sum()
        name = f"{self.response.name} per gap"
        return Labelled(
            slope, ("direction",), {"direction": self.response.coords["direction"]}, name, self.response.unit
        )

    @property
    def beyond_random(self) -> bool:
        """Whether the probe's direction moves the metric more than every random one, either way."""
        size = self.effect.values.abs()
        return bool(size[0] > size[1:].max())


def causal_check(
    probe: Probe,
    model: mi.Model,
    inputs: Any,
    metric: Any,
    *,
    gaps: Sequence[float] = (-2.0, -1.0, 0.0, 1.0, 2.0),
    pos: Any = slice(-1, None),
    randoms: int = 5,
    seed: int = 0,
    other_model: bool = False,
) -> CausalCheck:
    """Does moving along a probe's direction change the answer, and more than moving along random directions?

    Args:
        probe: of two classes; of several take ``probe.of(one, other)``.
        model: the model that it is of.
        inputs: as in `Model.run`; best prompts that the probe was not fitted on.
        metric: the answer, such as ``mi.logit_diff(" Asia", " Europe")``: second class against first.
        gaps: doses; 1 moves by the distance between the means of the classes.
        pos: where; by default at the last token. Best where the probe reads.
        randoms: random directions, of the same length.
        seed: of the random directions.
        other_model: take a probe of another model of the same shape.

    Raises:
        InputError: fewer than two doses, or no random direction.
        ValueMismatch: a probe of another model.
    """
    doses = tuple(map(float, gaps))
    if len(set(doses)) < 2 or randoms < 1:
        raise InputError(f"gaps={doses}, randoms={randoms}: give two or more doses, and at least one random direction.")
    directions = {"probe": probe.binary.direction}
    generator = torch.Generator().manual_seed(seed)
    for number in range(1, randoms + 1):
        drawn = torch.randn(len(probe.direction), generator=generator)
        directions[f"random {number}"] = (drawn / drawn.norm()).to(probe.direction)

    def moved(direction: str, gaps: float) -> mi.HookSpec:
        return probe.edit(model, mi.Add(directions[direction], scale=gaps * probe.gap), pos, other_model)

    def without(direction: str) -> mi.HookSpec:
        return probe.edit(model, mi.ProjectOut(directions[direction]), pos, other_model)

    names = {name: name for name in directions}
    swept = model.sweep(inputs, mi.grid(moved, direction=names, gaps=doses), metric, progress=False)
    removed = model.sweep(inputs, mi.grid(without, direction=names), metric, progress=False)
    assert swept.baseline is not None
    run = model.run(inputs, mi.capture(probe.point), logits=None)
    return CausalCheck(
        provenance=ResultProvenance.of(model, run, moved("probe", 1.0), inputs),
        response=plain(swept),
        baseline=plain(swept.baseline),
        removed=replace(plain(removed), name=f"{removed.name} without the direction"),
        gap=probe.gap,
        probe=repr(probe),
    )
