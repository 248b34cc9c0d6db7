"""Training sparse dictionaries: options by architecture, sources of activations, and `train`."""

from mi_dictionaries.training.config import TrainingConfig
from mi_dictionaries.training.loop import train
from mi_dictionaries.training.options import (
    AbsTopK,
    BatchTopK,
    CrossLayer,
    Gated,
    JumpReLU,
    MatchingPursuit,
    MatryoshkaBatchTopK,
    Options,
    Standard,
    TopK,
    options_of,
)
from mi_dictionaries.training.streams import LiveActivations, StoredActivations

__all__ = [
    "AbsTopK",
    "BatchTopK",
    "CrossLayer",
    "Gated",
    "JumpReLU",
    "LiveActivations",
    "MatchingPursuit",
    "MatryoshkaBatchTopK",
    "Options",
    "Standard",
    "StoredActivations",
    "TopK",
    "TrainingConfig",
    "options_of",
    "train",
]
