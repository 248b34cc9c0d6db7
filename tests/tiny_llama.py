"""A LLaMA of a few thousand random weights, alone or as a checkpoint folder with a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny_tokenizers

import mi_core as mi
from mi_core.building import initialise_randomly, save_model

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}


def tiny_llama(seed: int = 0, **config: Any) -> mi.Model:
    """The model, no parameter of it one or zero."""
    model = mi.build({**CONFIG, **config}, trainable=False, device="cpu")
    initialise_randomly(model, seed)
    return model


def write_tiny_llama(folder: Path, seed: int = 0) -> Path:
    """The model as a checkpoint folder with a tokenizer that knows the sentences of ``tiny_tokenizers``."""
    save_model(tiny_llama(seed, vocab_size=512), folder)
    return tiny_tokenizers.save(folder, tiny_tokenizers.byte_level())
