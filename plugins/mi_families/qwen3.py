"""Qwen 3 (dense), and everything else that ships as ``model_type: qwen3``.

Traits: LLaMA with a norm on each query and key head; the upper layers may attend within a window.
Source: Yang et al. 2025, arXiv:2505.09388; transformers 5.24, models/qwen3.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, HeadNorm, Layer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.rope_config import rotary
from mi_decoder.translation import NORMED_HEADS, blueprint, decoder, gated_mlp, heads
from mi_decoder.windows import upper_windows


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers differ in their window only."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=32, d_head=128)
    n_ctx = config.size("max_position_embeddings", default=32768)
    positions = rotary(config, d_head, n_ctx)
    bias, windows = config.flag("attention_bias", default=False), upper_windows(config)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0))
    values: dict[str, Any] = {"bias": bias, "out_bias": bias, "qk_norm": HeadNorm(norm)}
    mlp = gated_mlp(config)

    def layer(index: int) -> Layer:
        mixer = Attention(n_heads, n_kv_heads, d_head, positions, window=windows[index], **values)
        return Layer(ln1=norm, mixer=mixer, ln2=norm, channel=mlp)

    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False), names=NORMED_HEADS)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: windows on the upper layers, biases, a head width of its own, both spellings."""
    tiny = {"model_type": "qwen3", **TINY, "head_dim": 12}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    return (
        tiny
        | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "attention_bias": True}
        | {"tie_word_embeddings": True, "rope_theta": 1e6, "rope_scaling": yarn},
        tiny | {"rms_norm_eps": 1e-5, "hidden_act": "gelu", "rope_parameters": {"rope_type": "default"}},
    )
