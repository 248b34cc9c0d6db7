"""The text part of image-and-text checkpoints, read by the family that reads it where it ships alone.

Source: transformers 5.24, models/llava and the models that take over its names (conversion_mapping.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from mi_core.blueprint import Blueprint, Weight
from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.families import blueprint_of, family_of
from mi_core.inert import check_config_used

__all__ = ["text_part"]

LLAMA = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
LLAMA |= {"num_attention_heads": 32}
ABSENT: Mapping[str, Mapping[str, Any]] = {"llama": LLAMA, "mistral": {**LLAMA, "intermediate_size": 14336}}
"""What the reference takes for sizes that published files leave out. Source: transformers 5.24, LlamaConfig and
MistralConfig."""
IMAGES = "for images, which are not read"
TOWERS = ("vision_tower", "visual", "multi_modal_projector", "image_newline")
KEYS = "vision_config image_token_index image_token_id image_seq_length projector_hidden_act vision_feature_layer "
KEYS += "vision_feature_select_strategy multimodal_projector_bias image_grid_pinpoints spatial_merge_size "
KEYS += "video_token_id vision_start_token_id vision_end_token_id"
INERT = dict.fromkeys(KEYS.split(), IMAGES)
DROPPED = {f"{outer}{tower}*": IMAGES for outer in ("", "model.") for tower in TOWERS}


def text_part(
    config: Config,
    tensors: Collection[str] | None,
    *,
    family: str,
    tied: bool = False,
    newer: bool = False,
) -> Blueprint:
    """The blueprint of ``text_config``'s own family, under the names that the part has inside the checkpoint.

    ``tied`` is the outer config's default; ``newer`` is whether new checkpoints of the family call the part
    ``model.language_model``.

    Raises:
        BadConfig: the part's family scales or caps its logits, which the reference leaves out here.
    """
    given = config.child("text_config").plain()
    kind = given.get("model_type", "llama")
    outer = {"model_type": kind, "tie_word_embeddings": config.flag("tie_word_embeddings", default=tied)}
    values = {**ABSENT.get(kind, {}), **config.get("text_config", given), **outer}
    text = Config(values, where=f"{config.where}, text_config")
    inside: Any = None if tensors is None else {inner_name(name) for name in tensors}
    inner = blueprint_of(family_of(text), text, inside)
    check_config_used(text, inner.inert, family=family)
    backend: Any = inner.backend()
    if backend.spec.logit_scale != 1.0 or backend.spec.logit_softcap is not None:
        raise BadConfig(
            f"{config.where}: the text part is a {kind!r}, which scales or caps its logits; the reference leaves that "
            f"out inside a {family!r}, so what is meant is not known.",
            path=config.where,
        )
    newer = newer if tensors is None else any(name.startswith("model.language_model.") for name in tensors)
    weights = {
        parameter: Weight(tuple(outer_name(name, newer) for name in weight.names), weight.view)
        for parameter, weight in inner.weights.items()
    }
    dropped = {f"*{pattern.removeprefix('*')}": why for pattern, why in inner.dropped.items()}
    return replace(inner, weights=weights, dropped={**DROPPED, **dropped}, inert=INERT)


def inner_name(name: str) -> str:
    """What a tensor is called where the text part ships alone."""
    if name.startswith("model.language_model."):
        return f"model.{name.removeprefix('model.language_model.')}"
    return name.removeprefix("language_model.")


def outer_name(name: str, newer: bool) -> str:
    """What a tensor of the text part is called inside: ``language_model.lm_head``, or ``lm_head`` in newer files."""
    if not newer:
        return f"language_model.{name}"
    return f"model.language_model.{name.removeprefix('model.')}" if name.startswith("model.") else name
