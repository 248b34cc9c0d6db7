"""Youtu-LLM (2B), and everything else that ships as ``model_type: youtu``.

Traits: LLaMA with DeepSeek 3's latent attention.
Source: Tencent Youtu Lab 2025, arXiv:2512.24618; transformers 5.24, models/youtu.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Layer, RMSNorm
from mi_decoder.deepseek import LATENT_NAMES, latent_attention
from mi_decoder.examples import TINY
from mi_decoder.translation import blueprint, decoder, gated_mlp

INERT = {"embedding_initializer_range": "initialisation", "mlp_bias": "not read by the reference"}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    n_ctx = config.size("max_position_embeddings", default=131072)
    interleaved = config.flag("rope_interleave", default=True)
    mixer, reach = latent_attention(config, n_ctx, interleaved=interleaved)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0))
    model = decoder(config, Layer(mixer, gated_mlp(config), ln1=norm, ln2=norm), norm, reach)
    tied = config.flag("tie_word_embeddings", default=True)
    return blueprint(model, tensors, tied=tied, names=LATENT_NAMES, inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: YaRN; queries without a latent, biases, in the older spelling."""
    tiny = {"model_type": "youtu", **TINY, "num_hidden_layers": 2, "kv_lora_rank": 12, "num_key_value_heads": 4}
    tiny |= {"qk_nope_head_dim": 6, "qk_rope_head_dim": 8, "v_head_dim": 10, "q_lora_rank": 14}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4}
    return (
        tiny | {"rope_parameters": {**yarn, "mscale": 1.0, "mscale_all_dim": 0.7}},
        tiny
        | {"q_lora_rank": None, "attention_bias": True, "rope_theta": 1e3, "rope_interleave": False}
        | {"tie_word_embeddings": False, "rms_norm_eps": 1e-5},
    )
