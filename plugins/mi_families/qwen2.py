"""Qwen 2 and 2.5, QwQ, DeepSeek-R1's Qwen distillations, and everything else that ships as ``model_type: qwen2``.

Traits: LLaMA with biases on queries, keys and values; the upper layers may attend within a window.
Source: Yang et al. 2024, arXiv:2407.10671; transformers 5.24, models/qwen2.
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
from mi_decoder.windows import upper_windows


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers differ in their window only."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=32)
    n_ctx = config.size("max_position_embeddings", default=32768)
    positions = rotary(config, d_head, n_ctx)
    windows = upper_windows(config)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0))
    mlp = gated_mlp(config)

    def layer(index: int) -> Layer:
        attention = Attention(n_heads, n_kv_heads, d_head, positions, bias=True, window=windows[index])
        return Layer(ln1=norm, mixer=attention, ln2=norm, channel=mlp)

    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False))


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: windows on the upper layers in both spellings, no window, own rotary scaling."""
    tiny = {"model_type": "qwen2", **TINY}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    return (
        tiny | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "tie_word_embeddings": True},
        tiny | {"sliding_window": 4, "max_window_layers": 1, "rope_parameters": {**yarn, "rope_theta": 1e6}},
        tiny
        | {"use_sliding_window": True, "sliding_window": 3, "layer_types": kinds, "head_dim": 12}
        | {"rope_theta": 5000.0, "rms_norm_eps": 1e-5, "hidden_act": "relu"},
    )
