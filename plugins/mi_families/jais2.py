"""Jais 2, and everything else that ships as ``model_type: jais2``.

Traits: LLaMA's order with layer norms, a plain MLP of squared ReLU, biases everywhere.
Source: Inception and MBZUAI 2025, huggingface.co/inceptionai; transformers 5.24, models/jais2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Layer, LayerNorm
from mi_decoder.examples import TINY
from mi_decoder.rope_config import rotary
from mi_decoder.translation import blueprint, decoder, heads, plain_mlp


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    n_heads, n_kv_heads, d_head = heads(config)
    n_ctx = config.size("max_position_embeddings", default=8192)
    positions = rotary(config, d_head, n_ctx)
    bias, mlp_bias = (config.flag(key, default=True) for key in ("attention_bias", "mlp_bias"))
    norm = LayerNorm(config.number("layer_norm_eps", default=1e-5, at_least=0.0))
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, bias=bias, out_bias=bias)
    layer = Layer(mixer, plain_mlp(config, bias=mlp_bias, activation="relu2"), ln1=norm, ln2=norm)
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False))


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: as published with a scaling; without biases, in the older spelling."""
    tiny = {"model_type": "jais2", **TINY, "num_hidden_layers": 2}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    return (
        tiny | {"head_dim": 12, "rope_parameters": linear},
        tiny
        | {"attention_bias": False, "mlp_bias": False, "rope_theta": 1e3, "layer_norm_eps": 1e-4}
        | {"hidden_act": "gelu", "tie_word_embeddings": True},
    )
