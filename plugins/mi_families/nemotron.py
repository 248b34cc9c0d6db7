"""Nemotron-4, Minitron, and everything else that ships as ``model_type: nemotron``.

Traits: layer norms with gains stored as offsets from one, squared ReLU, rotary positions over a part of each head.
Source: Parmar et al. 2024, arXiv:2402.16819; transformers 5.24, models/nemotron.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Layer, LayerNorm, OnePlusGain
from mi_decoder.examples import TINY
from mi_decoder.rope_config import rotary
from mi_decoder.translation import blueprint, decoder, heads, plain_mlp


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    n_heads, n_kv_heads, d_head = heads(config)
    n_ctx = config.size("max_position_embeddings", default=4096)
    positions = rotary(config, d_head, n_ctx, part=0.5)
    bias, mlp_bias = (config.flag(key, default=False) for key in ("attention_bias", "mlp_bias"))
    norm = LayerNorm(config.number("norm_eps", default=1e-5, at_least=0.0), OnePlusGain())
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, bias=bias, out_bias=bias)
    layer = Layer(mixer, plain_mlp(config, activation="relu2", bias=mlp_bias), ln1=norm, ln2=norm)
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False))


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: biases, a head width of its own, a scaling; the older spelling."""
    tiny = {"model_type": "nemotron", **TINY}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3, "partial_rotary_factor": 0.5}
    return (
        tiny | {"attention_bias": True, "mlp_bias": True, "head_dim": 12, "rope_parameters": linear},
        tiny | {"rope_theta": 1e3, "norm_eps": 1e-4, "hidden_act": "gelu", "tie_word_embeddings": True},
    )
