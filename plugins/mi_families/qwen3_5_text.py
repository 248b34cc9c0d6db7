"""Qwen 3.5's dense text decoder (27B), which ships alone as ``model_type: qwen3_5_text``.

Traits: gated delta nets with a short convolution, and on every fourth layer attention with an output gate; dense MLPs.
Source: Qwen Team 2026, Qwen3.5; Yang et al. 2024, arXiv:2412.06464; transformers 5.24, models/qwen3_5.
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
from mi_decoder.translation import blueprint, decoder, gated_mlp
from mi_recurrent.delta_config import DELTA_NAMES, IN_TEXT, SEVERAL_TOKENS, delta_net, linear_layers

__all__ = ["mi_family", "mi_family_examples"]


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of recurrent layers and attention."""
    norm, attention = one_plus_norm(config), gated_attention(config, n_kv_heads=4)
    net, mlp, recurrent = delta_net(config, norm.eps), gated_mlp(config), linear_layers(config)

    def layer(index: int) -> Layer:
        return Layer(net if recurrent[index] else attention, mlp, ln1=norm, ln2=norm)

    model = decoder(config, layer, norm, reach(config, attention))
    names = {**gated_names(attention), **DELTA_NAMES}
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=names, dropped=SEVERAL_TOKENS, inert=IN_TEXT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: shared keys; as many keys as values, biases, tied."""
    tiny = {"model_type": "qwen3_5_text", **TINY, "num_hidden_layers": 2, "head_dim": 16}
    tiny |= {"linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 8}
    linear, full = "linear_attention", "full_attention"
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    rope |= {"mrope_section": [2, 1, 1], "mrope_interleaved": True}
    return (
        tiny | {"linear_num_key_heads": 2, "layer_types": [linear, full], "rope_parameters": rope},
        tiny
        | {"linear_num_key_heads": 4, "linear_conv_kernel_dim": 2, "layer_types": [full, linear]}
        | {"attention_bias": True, "tie_word_embeddings": True},
    )
