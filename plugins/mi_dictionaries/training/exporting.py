"""From what was trained to a dictionary that encodes, decodes and splices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mi_dictionaries.about import About
from mi_dictionaries.activations import AbsTopK, Activation, Gated, JumpReLU, ReLU, TopK
from mi_dictionaries.cross_layer import cross_layer_transcoder_layer
from mi_dictionaries.matching_pursuit import MatchingPursuit
from mi_dictionaries.sets import DictionarySet
from mi_dictionaries.sparse import SparseDictionary
from mi_dictionaries.training.crosslayer import CrossLayerTrainee
from mi_dictionaries.training.matching_pursuit import MatchingPursuitTrainee
from mi_dictionaries.training.trainee import Learner, Trainee

__all__ = ["Trained", "dictionary_of"]

Trained = SparseDictionary | MatchingPursuit | DictionarySet
"""A dictionary, or the layers of a cross-layer transcoder."""


def dictionary_of(learner: Learner[Any], points: tuple[str, ...], about: About) -> Trained:
    """The dictionary at its points: the first is read and the last written, or the first half and the second."""
    if isinstance(learner, CrossLayerTrainee):
        return cross_layer(learner, points, about)
    assert isinstance(learner, Trainee)
    tensors = learner.tensors()
    frame: dict[str, Any] = {
        "reads": points[:1],
        "writes": points[-1:],
        "heads": points[0].endswith("attn.hook_z"),
        "b_in": tensors["b_dec"] if learner.centres else None,
        "about": about,
    }
    if isinstance(learner, MatchingPursuitTrainee):
        options = learner.options
        return MatchingPursuit(
            W_dec=tensors["W_dec"],
            # tied: the bias is added only where it was subtracted
            b_dec=tensors["b_dec"] if learner.centres else None,
            residual_threshold=learner.residual_threshold,
            max_iterations=options.max_iterations,
            stop_on_duplicate_support=options.stop_on_duplicate_support,
            **frame,
        )
    weights = {name: tensors.get(name) for name in ("W_enc", "b_enc", "W_dec", "b_dec", "W_skip")}
    return SparseDictionary(**frame, **weights, activation=activation_of(learner.options, tensors))  # type: ignore[arg-type]


def activation_of(options: Any, tensors: Mapping[str, Tensor]) -> Activation:
    """What turns pre-activations into features once it is trained."""
    if "threshold" in tensors:
        return JumpReLU(tensors["threshold"].clamp(min=0))
    if "b_gate" in tensors:
        return Gated(tensors["b_gate"], tensors["b_mag"], tensors["r_mag"])
    if options.architecture in ("topk", "abstopk"):
        return (AbsTopK if options.architecture == "abstopk" else TopK)(int(options.k))
    return ReLU()


def cross_layer(learner: CrossLayerTrainee, points: tuple[str, ...], about: About) -> DictionarySet:
    """One dictionary for each layer that is read."""
    layers, outs = learner.layers, points[learner.layers :]
    thresholds = learner.thresholds()
    made: list[Any] = [
        cross_layer_transcoder_layer(
            reads=points[layer],
            writes=outs[layer:],
            W_enc=learner.W_enc[layer].detach().T.contiguous(),
            b_enc=learner.b_enc[layer].detach().clone(),
            W_dec=learner.W_dec[layer].detach().clone().view(-1, layers - layer, learner.d_out),
            b_dec=learner.b_dec[layer].detach().clone(),
            activation=JumpReLU(thresholds[layer]),
            about=about,
        )
        for layer in range(layers)
    ]
    return DictionarySet(tuple(made), about)
