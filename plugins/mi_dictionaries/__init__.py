"""Sparse dictionaries: autoencoders, transcoders and cross-layer transcoders, encoded, decoded and spliced."""

from mi_dictionaries.about import About
from mi_dictionaries.activations import AbsTopK, Activation, Gated, GroupMax, JumpReLU, ReLU, TanhReLU, TopK
from mi_dictionaries.adapters import adapted
from mi_dictionaries.belonging import accepted_for
from mi_dictionaries.cross_layer import cross_layer_transcoder_layer
from mi_dictionaries.crosscoding import precomputed_splice
from mi_dictionaries.evaluation import Evaluation, evaluate
from mi_dictionaries.feature_effects import logit_effects, neighbours, projections
from mi_dictionaries.feature_report import FeatureReport, feature_report
from mi_dictionaries.feature_steering import feature_edit, steering_curve
from mi_dictionaries.features import Features
from mi_dictionaries.folding import fold_decoder_norms, fold_scale
from mi_dictionaries.loading import load
from mi_dictionaries.matching_pursuit import MatchingPursuit
from mi_dictionaries.rows import Stacked
from mi_dictionaries.sets import DictionarySet
from mi_dictionaries.sparse import SparseDictionary
from mi_dictionaries.splicing import splice
from mi_dictionaries.temporal import Temporal, TemporalAttention
from mi_dictionaries.training import TrainingConfig, train
from mi_dictionaries.transforms import Centred, ConstantNorm, LayerNorm, Scaled, Shifted, Transform, Whitened
from mi_dictionaries.writing import save, save_circuit_tracer, save_saelens

__all__ = [
    "About",
    "AbsTopK",
    "Activation",
    "Centred",
    "ConstantNorm",
    "DictionarySet",
    "Evaluation",
    "FeatureReport",
    "Features",
    "Gated",
    "GroupMax",
    "JumpReLU",
    "LayerNorm",
    "MatchingPursuit",
    "ReLU",
    "Scaled",
    "Shifted",
    "SparseDictionary",
    "Stacked",
    "TanhReLU",
    "Temporal",
    "TemporalAttention",
    "TopK",
    "TrainingConfig",
    "Transform",
    "Whitened",
    "accepted_for",
    "adapted",
    "cross_layer_transcoder_layer",
    "evaluate",
    "feature_edit",
    "feature_report",
    "fold_decoder_norms",
    "fold_scale",
    "load",
    "logit_effects",
    "neighbours",
    "precomputed_splice",
    "projections",
    "save",
    "save_circuit_tracer",
    "save_saelens",
    "splice",
    "steering_curve",
    "train",
]
