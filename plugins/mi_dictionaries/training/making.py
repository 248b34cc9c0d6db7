"""From options to a dictionary that can be trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from mi_core.errors import BadConfig
from mi_dictionaries.training.counted import BatchTopKTrainee, MatryoshkaTrainee, TopKTrainee
from mi_dictionaries.training.crosslayer import CrossLayerTrainee
from mi_dictionaries.training.jumprelu import JumpReLUTrainee
from mi_dictionaries.training.matching_pursuit import MatchingPursuitTrainee
from mi_dictionaries.training.options import CrossLayer, Options
from mi_dictionaries.training.relu import GatedTrainee, StandardTrainee
from mi_dictionaries.training.streams import Chunks
from mi_dictionaries.training.trainee import Learner, Trainee

__all__ = ["learner_of", "trainee_of"]

TRAINEES: dict[str, type[Trainee[Any]]] = {
    "standard": StandardTrainee,
    "gated": GatedTrainee,
    "topk": TopKTrainee,
    "abstopk": TopKTrainee,
    "batchtopk": BatchTopKTrainee,
    "matryoshka_batchtopk": MatryoshkaTrainee,
    "jumprelu": JumpReLUTrainee,
    "matching_pursuit": MatchingPursuitTrainee,
}


def trainee_of(options: Options, d_in: int, d_out: int, *, transcodes: bool, seed: int = 0) -> Trainee[Any]:
    """One dictionary at its start, drawn from a seed.

    Raises:
        BadConfig: the architecture does not fit: a transcoder that subtracts the bias of its output from its input.
    """
    centres = options.apply_b_dec_to_input
    if transcodes and centres:
        raise BadConfig(
            "apply_b_dec_to_input=True: the decoder's bias of a transcoder lives at another point than its input.",
            field="apply_b_dec_to_input",
        )
    if transcodes and options.architecture == "matching_pursuit":
        raise BadConfig("matching pursuit reads with its decoder: there is no transcoder of it.", field="architecture")
    if options.architecture not in TRAINEES:
        raise BadConfig(f"{options.architecture!r} is not trained on one point.", field="architecture")
    if centres is None:
        options = replace(options, apply_b_dec_to_input=not transcodes)
    return TRAINEES[options.architecture](options, d_in, d_out, torch.Generator().manual_seed(seed))


def learner_of(options: Options, source: Chunks, seed: int) -> Learner[Any]:
    """What is trained on a source: by how many points it has.

    Raises:
        BadConfig: a number of points that the architecture cannot have.
    """
    points, widths = source.points, source.widths
    if isinstance(options, CrossLayer):
        layers = len(points) // 2
        reads, writes = set(widths[:layers]), set(widths[layers:])
        if len(points) % 2 or not points or len(reads) != 1 or len(writes) != 1:
            raise BadConfig(
                f"a cross-layer transcoder reads as many points as it writes, all of one width; there are {points!r} "
                f"of the widths {widths!r}.",
                points=points,
            )
        return CrossLayerTrainee(options, layers, widths[0], widths[-1], torch.Generator().manual_seed(seed))
    if len(points) not in (1, 2):
        raise BadConfig(
            f"{options.architecture!r} reads one point and writes one; there are {len(points)}: {points!r}.",
            points=points,
        )
    return trainee_of(options, widths[0], widths[-1], transcodes=len(points) == 2, seed=seed)
