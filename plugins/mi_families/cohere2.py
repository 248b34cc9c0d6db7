"""Command R7B, Command A, and everything else that ships as ``model_type: cohere2``.

Traits: Cohere with a window on three of four layers, and no positions on the fourth.
Source: Cohere 2025, arXiv:2504.00698; transformers 5.24, models/cohere2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, LayerNorm, ParallelLayer
from mi_decoder.examples import TINY
from mi_decoder.rope_config import rotary
from mi_decoder.translation import blueprint, decoder, gated_mlp, heads, only
from mi_decoder.windows import alternating_windows

NOTES = "order_of_interleaved_layers position_embedding_type rotary_pct use_embedding_sharing use_gated_activation"
INERT = dict.fromkeys(
    (*NOTES.split(), "use_parallel_block", "use_parallel_embedding", "layer_switch"),
    "a note about the training code that the reference does not read",
)


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers have a window and positions, or neither."""
    n_heads, n_kv_heads, d_head = heads(config)
    n_ctx = config.size("max_position_embeddings", default=8192)
    positions = rotary(config, d_head, n_ctx, interleaved=True, wide=True)
    only(config, "use_qk_norm", False)
    bias, windows = config.flag("attention_bias", default=False), alternating_windows(config, 4)
    norm = LayerNorm(config.number("layer_norm_eps", default=1e-5, at_least=0.0), bias=False)
    mlp = gated_mlp(config)

    def layer(index: int) -> ParallelLayer:
        window = windows[index]
        place = positions if window else None
        mixer = Attention(n_heads, n_kv_heads, d_head, place, bias=bias, out_bias=bias, window=window)
        return ParallelLayer(mixer, mlp, ln1=norm)

    scale = config.number("logit_scale", default=0.0625)
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx), logit_scale=scale)
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=True), inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: short windows, biases, a scaling; a pattern, in the older spelling."""
    tiny = {"model_type": "cohere2", **TINY}
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    return (
        tiny
        | {"sliding_window": 4, "layer_types": kinds, "attention_bias": True, "rope_parameters": linear}
        | {"logit_scale": 0.3},
        tiny
        | {"sliding_window": 3, "sliding_window_pattern": 2, "rope_theta": 1e3, "tie_word_embeddings": False}
        | {"layer_norm_eps": 1e-4},
    )
