"""Granite 3, and everything else that ships as ``model_type: granite``.

Traits: LLaMA with multipliers of embeddings, scores, what is added to the stream, and logits.
Source: Granite Team 2024, ibm.com/granite; transformers 5.24, models/granite.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Layer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.rope_config import rotary
from mi_decoder.translation import blueprint, decoder, gated_mlp, heads


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    n_heads, n_kv_heads, d_head = heads(config)
    n_ctx = config.size("max_position_embeddings", default=2048)
    positions = rotary(config, d_head, n_ctx)
    bias = config.flag("attention_bias", default=False)
    scale = config.number("attention_multiplier", default=1.0)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0))
    layer = Layer(
        ln1=norm,
        mixer=Attention(n_heads, n_kv_heads, d_head, positions, bias=bias, out_bias=bias, scale=scale),
        ln2=norm,
        channel=gated_mlp(config, bias=config.flag("mlp_bias", default=False)),
        multiplier=config.number("residual_multiplier", default=1.0),
    )
    outside = {
        "embed_scale": config.number("embedding_multiplier", default=1.0),
        "logit_scale": 1.0 / config.number("logits_scaling", default=1.0, at_least=1e-9),
    }
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx), **outside)
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False))


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: every multiplier and bias; the older spelling."""
    tiny = {"model_type": "granite", **TINY}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    return (
        tiny
        | {"embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.3, "logits_scaling": 4.0}
        | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "rope_parameters": linear},
        tiny | {"rope_theta": 1e3, "rms_norm_eps": 1e-5, "attention_multiplier": 0.35},
    )
