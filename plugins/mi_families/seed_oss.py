"""Seed-OSS, and everything else that ships as ``model_type: seed_oss``.

Traits: LLaMA with biases of queries, keys and values that are not the output's.
Source: ByteDance Seed Team 2025, github.com/ByteDance-Seed/seed-oss; transformers 5.24, models/seed_oss.
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
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=8, d_head=128)
    n_ctx = config.size("max_position_embeddings", default=524288)
    positions = rotary(config, d_head, n_ctx)
    bias, out_bias = config.flag("attention_bias", default=True), config.flag("attention_out_bias", default=False)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0))
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, bias=bias, out_bias=out_bias)
    mlp = gated_mlp(config, bias=config.flag("mlp_bias", default=False))
    model = decoder(config, Layer(mixer, mlp, ln1=norm, ln2=norm), norm, positions.scaling.reach(n_ctx))
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False))


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: as published with a scaling; the other biases, in the older spelling."""
    tiny = {"model_type": "seed_oss", **TINY, "num_hidden_layers": 2, "head_dim": 12}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    return (
        tiny | {"rope_parameters": linear},
        tiny
        | {"attention_bias": False, "attention_out_bias": True, "mlp_bias": True, "rope_theta": 1e3}
        | {"rms_norm_eps": 1e-5, "tie_word_embeddings": True},
    )
