"""Command R, Aya 23, and everything else that ships as ``model_type: cohere``.

Traits: both parts of a layer side by side behind one norm without bias, interleaved rotary positions, scaled logits.
Source: Cohere 2024, docs.cohere.com/docs/command-r; transformers 5.24, models/cohere.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, HeadNorm, LayerNorm, ParallelLayer
from mi_decoder.examples import TINY
from mi_decoder.rope_config import rotary
from mi_decoder.translation import NORMED_HEADS, blueprint, decoder, gated_mlp, heads


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    n_heads, n_kv_heads, d_head = heads(config)
    n_ctx = config.size("max_position_embeddings", default=8192)
    positions = rotary(config, d_head, n_ctx, theta=5e5, interleaved=True, wide=True)
    bias = config.flag("attention_bias", default=False)
    norm = LayerNorm(config.number("layer_norm_eps", default=1e-5, at_least=0.0), bias=False)
    qk_norm = HeadNorm(norm, "own") if config.flag("use_qk_norm", default=False) else None
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, bias=bias, out_bias=bias, qk_norm=qk_norm)
    layer = ParallelLayer(mixer, gated_mlp(config), ln1=norm)
    scale = config.number("logit_scale", default=0.0625)
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx), logit_scale=scale)
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=True), names=NORMED_HEADS)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: norms of each head, biases, a scaling; the older spelling."""
    tiny = {"model_type": "cohere", **TINY}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    return (
        tiny | {"use_qk_norm": True, "attention_bias": True, "logit_scale": 0.3, "rope_parameters": linear},
        tiny | {"rope_theta": 1e3, "layer_norm_eps": 1e-4, "tie_word_embeddings": False},
    )
