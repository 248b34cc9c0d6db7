"""ERNIE 4.5 (dense), and everything else that ships as ``model_type: ernie4_5``.

Traits: LLaMA with interleaved rotary positions, and biases everywhere or nowhere.
Source: Baidu 2025, ERNIE 4.5 technical report; transformers 5.24, models/ernie4_5.
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
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=2, d_head=128)
    n_ctx = config.size("max_position_embeddings", default=131072)
    positions = rotary(config, d_head, n_ctx, theta=5e5, interleaved=True, wide=True)
    bias = config.flag("use_bias", default=False)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-5, at_least=0.0))
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, bias=bias, out_bias=bias)
    layer = Layer(mixer, gated_mlp(config, bias=bias), ln1=norm, ln2=norm)
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=True))


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: biases, a head width of its own, a scaling; the older spelling."""
    tiny = {"model_type": "ernie4_5", **TINY, "head_dim": 12}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    return (
        tiny | {"use_bias": True, "rope_parameters": linear},
        tiny | {"rope_theta": 1e3, "rms_norm_eps": 1e-6, "hidden_act": "gelu", "tie_word_embeddings": False},
    )
