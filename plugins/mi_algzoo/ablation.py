"""What each unit of a network is needed for: the accuracy without it, at every step, and without pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

import mi_core as mi
from mi_algzoo.accuracy import length_of, task_for
from mi_algzoo.weights import RNNWeights
from mi_core.labelled import Labelled
from mi_core.results import Result, ResultProvenance

__all__ = ["UnitAblation", "unit_ablation"]


@dataclass(frozen=True, kw_only=True, eq=True)
class UnitAblation(Result):
    """The accuracy of a network without some of its units."""

    accuracy: Labelled
    """Without each pair of units; on the diagonal without one: unit unit2."""
    interaction: Labelled
    """What a pair costs beyond what its units cost one by one; zero on the diagonal: unit unit2."""
    baseline: float
    """The accuracy of the whole network on the same inputs."""

    title: ClassVar[str] = "Accuracy without units"


def unit_ablation(model: mi.Model, task: str, *, samples: int = 20_000, seed: int = 0) -> UnitAblation:
    """How much worse is a network without a unit, and is that more than the sum for two of them?

    A unit that is left out is zero behind every step: ``mi.intervene("blocks.*.hook_resid_post",
    mi.Zero().at(d_model=unit))``.

    Raises:
        UnsupportedAnalysis: the model is no recurrent network.
        InputError: another task than the model's.
    """
    kind, weights = task_for(model, task), RNNWeights.of(model)
    x = kind.draw(samples, length_of(model), seed)
    label = kind.label(x)

    def right(*units: int) -> float:
        return float((weights.without(*units)(x).argmax(-1) == label).double().mean())

    units = range(weights.units)
    found = torch.tensor([[right(*{a, b}) for b in units] for a in units], dtype=torch.float64)
    baseline = right()
    cost = baseline - found
    alone = cost.diagonal()
    together = cost - alone[:, None] - alone[None]
    together.fill_diagonal_(0)
    return UnitAblation(
        provenance=ResultProvenance.of_weights(model),
        accuracy=Labelled(found, ("unit", "unit2"), name="accuracy"),
        interaction=Labelled(together, ("unit", "unit2"), name="interaction"),
        baseline=baseline,
    )
