"""Ministral 8B, and everything else that ships as ``model_type: ministral``.

Traits: Mistral with a window on some layers.
Source: Mistral AI 2024, mistral.ai/news/ministraux; transformers 5.24, models/ministral.
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
from mi_decoder.translation import blueprint, decoder, gated_mlp, heads, or_none
from mi_decoder.windows import layer_windows


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers differ in their window only; without a list of kinds, all have it."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=8)
    n_ctx = config.size("max_position_embeddings", default=131072)
    positions = rotary(config, d_head, n_ctx)
    window = config.size("sliding_window", default=or_none(config, "sliding_window", 4096))
    windows = layer_windows(config, window, lambda _: window is not None)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0))
    mlp = gated_mlp(config)

    def layer(index: int) -> Layer:
        mixer = Attention(n_heads, n_kv_heads, d_head, positions, window=windows[index])
        return Layer(mixer, mlp, ln1=norm, ln2=norm)

    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False))


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: a window on one layer; on all, in the older spelling."""
    tiny = {"model_type": "ministral", **TINY, "num_hidden_layers": 2, "head_dim": 12}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    kinds = ["sliding_attention", "full_attention"]
    return (
        tiny | {"sliding_window": 4, "layer_types": kinds, "rope_parameters": linear},
        tiny | {"sliding_window": 3, "rope_theta": 1e3, "rms_norm_eps": 1e-5, "tie_word_embeddings": True},
    )
