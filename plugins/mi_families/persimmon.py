"""Persimmon, and everything else that ships as ``model_type: persimmon``.

Traits: layer norms, also of queries and keys, rotary positions over a part of each head, squared ReLU.
Source: Elsen et al. 2023, adept.ai/blog/persimmon-8b; transformers 5.24, models/persimmon.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, HeadNorm, Layer, LayerNorm
from mi_decoder.examples import TINY
from mi_decoder.fused import of_each_head
from mi_decoder.rope_config import rotary
from mi_decoder.translation import LLAMA_NAMES, blueprint, decoder, fused_names, heads, module_names, plain_mlp

LAYER = {"mixer.o": "self_attn.dense", "mixer.q_norm": "self_attn.q_layernorm", "mixer.k_norm": "self_attn.k_layernorm"}
LAYER |= {"channel.in": "mlp.dense_h_to_4h", "channel.out": "mlp.dense_4h_to_h"}
NAMES = {**LLAMA_NAMES, **module_names("model.layers.*", LAYER), "ln_final": "model.final_layernorm"}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    n_heads, _, d_head = heads(config)
    n_ctx = config.size("max_position_embeddings", default=16384)
    positions = rotary(config, d_head, n_ctx, part=0.5)
    norm = LayerNorm(config.number("layer_norm_eps", default=1e-5, at_least=0.0))
    qk_norm = HeadNorm(norm) if config.flag("qk_layernorm", default=True) else None
    mixer = Attention(n_heads, n_heads, d_head, positions, bias=True, out_bias=True, qk_norm=qk_norm)
    layer = Layer(mixer, plain_mlp(config, activation="relu2"), ln1=norm, ln2=norm)
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    names = fused_names("mixer", "self_attn.query_key_value", "qkv", of_each_head(n_heads, d_head), names=NAMES)
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False), names=names)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: as published with a scaling; plain queries and keys, in the older spelling."""
    tiny = {"model_type": "persimmon", **TINY, "num_hidden_layers": 2}
    del tiny["num_key_value_heads"]
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3, "partial_rotary_factor": 0.5}
    return (
        tiny | {"rope_parameters": linear},
        tiny
        | {"qk_layernorm": False, "rope_theta": 1e3, "partial_rotary_factor": 0.25, "layer_norm_eps": 1e-4}
        | {"hidden_act": "gelu", "tie_word_embeddings": True},
    )
