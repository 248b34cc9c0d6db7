"""AlgZoo: networks of fewer than 1,500 parameters, and tools that take them apart exhaustively."""

from __future__ import annotations

from mi_algzoo.ablation import unit_ablation
from mi_algzoo.accuracy import accuracy, accuracy_estimates
from mi_algzoo.regions import regions
from mi_algzoo.roles import unit_roles
from mi_algzoo.standardise import standardised
from mi_algzoo.surprise import Explanation, surprise
from mi_algzoo.tasks import TASKS
from mi_algzoo.training import train
from mi_algzoo.weights import RNNWeights

__all__ = [
    "TASKS",
    "Explanation",
    "RNNWeights",
    "accuracy",
    "accuracy_estimates",
    "regions",
    "standardised",
    "surprise",
    "train",
    "unit_ablation",
    "unit_roles",
]
