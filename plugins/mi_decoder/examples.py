"""The sizes that families' example configs share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["EYE", "TINY", "TINY_LATENT", "YARN_MSCALE"]

TINY: Mapping[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
"""A model that runs in a millisecond, in the spelling that most configs share."""

TINY_LATENT: Mapping[str, Any] = {
    **TINY,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "q_lora_rank": 14,
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 20,
}
"""The same with latent attention and experts, as DeepSeek 3 spells them."""

YARN_MSCALE: Mapping[str, Any] = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 1e4,
    "mscale": 1.0,
    "mscale_all_dim": 0.7,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}
"""A rotary scaling that scales scores too."""

EYE: Mapping[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
"""What reads images in tiny checkpoints whose text part is loaded."""
