"""Probing: what can be read from activations, where, and whether it is used. What is public is imported here."""

from mi_probing.causal_check import CausalCheck, causal_check
from mi_probing.contrast import contrast_consistent, contrast_score
from mi_probing.contrast_search import ContrastConsistent, contrast_search
from mi_probing.examples import Examples
from mi_probing.harvested import harvested_examples
from mi_probing.methods import (
    METHODS,
    Discriminant,
    Estimator,
    KMeans,
    Logistic,
    MassMean,
    Method,
    Mlp,
    Ridge,
    Sparse,
)
from mi_probing.probe import Probe
from mi_probing.probing import Probing, probing, probing_of
from mi_probing.protocol import Protocol
from mi_probing.reading import Reading, read_examples
from mi_probing.tasks import Linear, Tasks

__all__ = [
    "METHODS",
    "CausalCheck",
    "ContrastConsistent",
    "Discriminant",
    "Estimator",
    "Examples",
    "KMeans",
    "Linear",
    "Logistic",
    "MassMean",
    "Method",
    "Mlp",
    "Probe",
    "Probing",
    "Protocol",
    "Reading",
    "Ridge",
    "Sparse",
    "Tasks",
    "causal_check",
    "contrast_consistent",
    "contrast_score",
    "contrast_search",
    "harvested_examples",
    "probing",
    "probing_of",
    "read_examples",
]
