"""Analyses: one module for each, imported here as the functions that they are.

Importing one imports the core and nothing heavy beside it; views and commands are loaded when they are used.
"""

from mi_analyses.ablation import Ablation, ablation
from mi_analyses.activation_patching import ActivationPatching, activation_patching
from mi_analyses.activation_pca import ActivationPCA, activation_pca
from mi_analyses.activation_steering import ActivationSteering, activation_steering
from mi_analyses.attention_knockout import AttentionKnockout, attention_knockout
from mi_analyses.attention_patterns import AttentionPatterns, attention_patterns
from mi_analyses.attention_steering import AttentionSteering, attention_steering
from mi_analyses.attribution_patching import AttributionPatching, attribution_patching
from mi_analyses.circuit_curve import CircuitCurve, circuit_curve
from mi_analyses.circuit_faithfulness import CircuitFaithfulness, circuit_faithfulness
from mi_analyses.direct_logit_attribution import DirectLogitAttribution, direct_logit_attribution
from mi_analyses.edge_attribution import EdgeAttribution, edge_attribution
from mi_analyses.head_circuits import HeadCircuits, head_circuits
from mi_analyses.head_scores import HeadScores, head_scores
from mi_analyses.logit_lens import LogitLens, logit_lens
from mi_analyses.path_patching import PathPatching, path_patching
from mi_analyses.pattern_views import PATTERN_VIEWS
from mi_analyses.recurrent_state import RecurrentState, recurrent_state
from mi_analyses.steering_vectors import SteeringVector, steering_vectors

__all__ = [
    "PATTERN_VIEWS",
    "Ablation",
    "ActivationPCA",
    "ActivationPatching",
    "ActivationSteering",
    "AttentionKnockout",
    "AttentionPatterns",
    "AttentionSteering",
    "AttributionPatching",
    "CircuitCurve",
    "CircuitFaithfulness",
    "DirectLogitAttribution",
    "EdgeAttribution",
    "HeadCircuits",
    "HeadScores",
    "LogitLens",
    "PathPatching",
    "RecurrentState",
    "SteeringVector",
    "ablation",
    "activation_patching",
    "activation_pca",
    "activation_steering",
    "attention_knockout",
    "attention_patterns",
    "attention_steering",
    "attribution_patching",
    "circuit_curve",
    "circuit_faithfulness",
    "direct_logit_attribution",
    "edge_attribution",
    "head_circuits",
    "head_scores",
    "logit_lens",
    "path_patching",
    "recurrent_state",
    "steering_vectors",
]
