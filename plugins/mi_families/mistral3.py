"""Mistral Small 3.1 and 3.2 (with images), of which the text part is loaded: ``model_type: mistral3``.

Traits: a Mistral under another prefix; the parts that read images are dropped.
Source: Mistral AI 2025, mistral.ai/news/mistral-small-3-1; transformers 5.24, models/mistral3.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder.examples import EYE, TINY
from mi_decoder.text_part import text_part


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """The decoder of ``text_config``."""
    return text_part(config, tensors, family="mistral3", tied=True)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: an unembedding of its own; a window."""
    tiny = {"model_type": "mistral", **TINY, "num_hidden_layers": 2, "head_dim": 12}
    eye = {**EYE, "model_type": "pixtral", "head_dim": 8}
    outer = {"model_type": "mistral3", "vision_config": eye, "spatial_merge_size": 2}
    return (
        {**outer, "text_config": {**tiny, "sliding_window": None, "rope_theta": 1e3}, "tie_word_embeddings": False},
        {**outer, "text_config": {**tiny, "sliding_window": 4, "rms_norm_eps": 1e-5}},
    )
