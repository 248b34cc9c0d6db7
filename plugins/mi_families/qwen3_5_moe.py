"""Qwen 3.5's image-and-text models with experts (35B-A3B), whose text part is loaded: ``model_type: qwen3_5_moe``.

Traits: Qwen 3.5's text decoder with experts under another prefix; the parts that read images are dropped.
Source: Qwen Team 2026, Qwen3.5; transformers 5.24, models/qwen3_5_moe.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder.examples import TINY
from mi_decoder.text_part import text_part

__all__ = ["mi_family", "mi_family_examples"]


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """The decoder of ``text_config``."""
    return text_part(config, tensors, family="qwen3_5_moe", newer=True)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: an unembedding of its own, and the embedding's."""
    text = {"model_type": "qwen3_5_moe_text", **TINY, "num_hidden_layers": 2, "head_dim": 16, "linear_num_key_heads": 2}
    text |= {"linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 8}
    text |= {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 20}
    text |= {"shared_expert_intermediate_size": 24}
    del text["intermediate_size"]
    eye = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    eye |= {"num_position_embeddings": 4, "patch_size": 14}
    outer = {"model_type": "qwen3_5_moe", "vision_config": eye}
    linear, full = "linear_attention", "full_attention"
    return (
        {**outer, "text_config": {**text, "layer_types": [linear, full]}},
        {**outer, "text_config": {**text, "layer_types": [full, linear]}, "tie_word_embeddings": True},
    )
