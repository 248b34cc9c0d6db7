"""Qwen 3.5's text decoder with experts (35B-A3B), which ships alone as ``model_type: qwen3_5_moe_text``.

Traits: Qwen 3.5 with mixtures of experts in every layer, beside them a shared one behind a gate of its own.
Source: Qwen Team 2026, Qwen3.5; Yang et al. 2024, arXiv:2412.06464; transformers 5.24, models/qwen3_5_moe.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Layer
from mi_decoder.examples import TINY
from mi_decoder.gated_attention import gated_attention, gated_names, one_plus_norm, reach
from mi_decoder.moe_config import BESIDE_SHARED, LEARNING_TO_ROUTE, mixture_beside_shared, moe_names
from mi_decoder.translation import blueprint, decoder
from mi_recurrent.delta_config import DELTA_NAMES, IN_TEXT, SEVERAL_TOKENS, delta_net, linear_layers

__all__ = ["mi_family", "mi_family_examples"]

INERT = {**LEARNING_TO_ROUTE, **IN_TEXT}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of recurrent layers and attention, all with experts."""
    norm, attention = one_plus_norm(config), gated_attention(config, n_kv_heads=2)
    net, recurrent = delta_net(config, norm.eps), linear_layers(config)
    experts = mixture_beside_shared(config, 256, 8, d_mlp=512, d_shared=512, normalise=True)

    def layer(index: int) -> Layer:
        return Layer(net if recurrent[index] else attention, experts, ln1=norm, ln2=norm)

    model = decoder(config, layer, norm, reach(config, attention))
    names = {**gated_names(attention), **moe_names(shared="shared_expert"), **BESIDE_SHARED, **DELTA_NAMES}
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=names, dropped=SEVERAL_TOKENS, inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: shared keys; as many keys as values, biases, tied."""
    sizes = {key: value for key, value in TINY.items() if key != "intermediate_size"}
    tiny = {"model_type": "qwen3_5_moe_text", **sizes, "num_hidden_layers": 2, "head_dim": 16, "num_experts": 6}
    tiny |= {"num_experts_per_tok": 3, "moe_intermediate_size": 20, "shared_expert_intermediate_size": 24}
    tiny |= {"linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 8}
    linear, full = "linear_attention", "full_attention"
    return (
        tiny | {"linear_num_key_heads": 2, "layer_types": [linear, full]},
        tiny
        | {"linear_num_key_heads": 4, "linear_conv_kernel_dim": 3, "layer_types": [full, linear]}
        | {"attention_bias": True, "tie_word_embeddings": True},
    )
