"""StarCoder 2, and everything else that ships as ``model_type: starcoder2``.

Traits: layer norms, grouped queries, rotary positions, a plain MLP, biases everywhere, a window on every layer.
Source: Lozhkov et al. 2024, arXiv:2402.19173; transformers 5.24, models/starcoder2.
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
from mi_decoder.translation import LLAMA_NAMES, blueprint, decoder, heads, plain_mlp

NAMES = {
    **LLAMA_NAMES,
    "layers.*.channel.in": "model.layers.*.mlp.c_fc",
    "layers.*.channel.out": "model.layers.*.mlp.c_proj",
}
OLDER = "activation_function layer_norm_epsilon mlp_type norm_type attention_softmax_in_fp32 scale_attn_weights"
INERT = dict.fromkeys((*OLDER.split(), "scale_attention_softmax_in_fp32"), "a spelling that the reference never reads")


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=2)
    n_ctx = config.size("max_position_embeddings", default=4096)
    positions = rotary(config, d_head, n_ctx)
    bias, window = config.flag("use_bias", default=True), config.size("sliding_window", default=None)
    norm = LayerNorm(config.number("norm_epsilon", default=1e-5, at_least=0.0))
    layer = Layer(
        ln1=norm,
        mixer=Attention(n_heads, n_kv_heads, d_head, positions, bias=bias, out_bias=bias, window=window),
        ln2=norm,
        channel=plain_mlp(config, activation="gelu_pytorch_tanh", bias=bias),
    )
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=True), names=NAMES, inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: a window and biases; neither, in the older spelling."""
    tiny = {"model_type": "starcoder2", **TINY}
    return (
        tiny | {"sliding_window": 4, "rope_parameters": {"rope_type": "default", "rope_theta": 1e3}},
        tiny
        | {"use_bias": False, "hidden_act": "gelu", "norm_epsilon": 1e-4, "tie_word_embeddings": False}
        | {"rope_theta": 5e3, "rope_scaling": {"type": "linear", "factor": 2.0}, "head_dim": 12},
    )
