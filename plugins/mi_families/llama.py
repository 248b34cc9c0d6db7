"""LLaMA 1, 2, 3.x, CodeLlama, and everything else that ships as ``model_type: llama``.

Traits: RMS norms before both parts, rotary positions with every scaling, grouped queries, gated MLP.
Source: Touvron et al. 2023, arXiv:2302.13971 and arXiv:2307.09288; transformers 5.24, models/llama.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder.llama import llama_decoder
from mi_decoder.translation import blueprint

INERT = {
    "is_llama_config": "a note of the tool that wrote the file",
    "max_sequence_length": "an older spelling that the reference does not read",
    "rope_interleaved": "a note about the training code; the file is in the reference's order",
}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers, as the config describes it."""
    return blueprint(
        llama_decoder(config), tensors, tied=config.flag("tie_word_embeddings", default=False), inert=INERT
    )


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: plain, everything on, and each rotary scaling in one of the two spellings."""
    tiny = {
        "model_type": "llama",
        "vocab_size": 61,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
    }
    ramp = [1.0 + 0.1 * pair for pair in range(4)]
    llama3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
    return (
        tiny,
        tiny
        | {"num_key_value_heads": 2, "head_dim": 12, "attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"}
        | {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, **llama3}},
        tiny | {"num_key_value_heads": 1, "rope_theta": 5000.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
        tiny | {"max_position_embeddings": 8, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        tiny | {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
        tiny
        | {"original_max_position_embeddings": 8}
        | {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": ramp}},
    )
