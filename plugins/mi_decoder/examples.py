"""The sizes that families' example configs share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["EYE", "TINY"]

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
