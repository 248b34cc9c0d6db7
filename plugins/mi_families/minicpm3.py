"""MiniCPM3 (4B), and everything else that ships as ``model_type: minicpm3``.

Traits: LLaMA with latent attention; embeddings, branches and logits are scaled.
Source: OpenBMB 2024, MiniCPM3-4B, after Hu et al. 2024, arXiv:2404.06395; transformers 5.24, models/minicpm3.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Layer, RMSNorm
from mi_decoder.deepseek import LATENT_NAMES, latent_attention
from mi_decoder.examples import TINY
from mi_decoder.translation import blueprint, decoder, gated_mlp, or_none

SIZES = {"qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "kv_lora_rank": 256, "q_lora_rank": 768}
"""What the reference takes for sizes that a config leaves out. Source: transformers 5.24, MiniCPM3Config."""
INERT = {"pretraining_tp": "how training split matrices"}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    n_ctx, d_model = config.size("max_position_embeddings", default=32768), config.size("hidden_size")
    sizes = {**SIZES, "v_head_dim": d_model // config.size("num_attention_heads")}
    mixer, reach = latent_attention(config, n_ctx, sizes=sizes, interleaved=False)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-5, at_least=0.0))
    mlp = gated_mlp(config, bias=config.flag("mlp_bias", default=False))
    depth = math.sqrt(config.size("num_hidden_layers"))
    multiplier = config.number("scale_depth", default=or_none(config, "scale_depth", 1.4) or depth) / depth
    base = config.size("dim_model_base", default=or_none(config, "dim_model_base", 256) or d_model)
    outside = {"embed_scale": config.number("scale_emb", default=12.0), "logit_scale": base / d_model}
    layer = Layer(mixer, mlp, ln1=norm, ln2=norm, multiplier=multiplier)
    model = decoder(config, layer, norm, reach, **outside)
    tied = config.flag("tie_word_embeddings", default=True)
    return blueprint(model, tensors, tied=tied, names=LATENT_NAMES, inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: scales and YaRN; none, biases and queries without a latent, in the older spelling."""
    tiny = {"model_type": "minicpm3", **TINY, "num_hidden_layers": 2, "kv_lora_rank": 12, "num_key_value_heads": 4}
    tiny |= {"qk_nope_head_dim": 6, "qk_rope_head_dim": 8, "q_lora_rank": 14}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4}
    return (
        tiny
        | {"v_head_dim": 10, "scale_emb": 3.0, "scale_depth": 0.9, "dim_model_base": 16}
        | {"rope_parameters": {**yarn, "mscale": 1.0, "mscale_all_dim": 0.7}},
        tiny
        | {"scale_depth": None, "dim_model_base": None, "scale_emb": 1.0, "q_lora_rank": None, "attention_bias": True}
        | {"mlp_bias": True, "rope_theta": 1e3, "tie_word_embeddings": False},
    )
