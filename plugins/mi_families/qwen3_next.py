"""Qwen 3 Next (80B-A3B), and everything else that ships as ``model_type: qwen3_next``.

Traits: gated delta nets with a short convolution, and on every fourth layer attention with an output gate; mixtures of
experts with a shared one behind a gate of its own. Source: Qwen Team 2025, Qwen3-Next; Yang et al. 2024,
arXiv:2412.06464; transformers 5.24, models/qwen3_next.
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
from mi_decoder.moe_config import BESIDE_SHARED, LEARNING_TO_ROUTE, mixture_beside_shared, moe_names, sparse_by_step
from mi_decoder.translation import Source, blueprint, decoder, gated_mlp
from mi_recurrent import GatedDeltaNet
from mi_recurrent.delta_config import DELTA_NAMES, SEVERAL_TOKENS, delta_net, linear_layers, of_each_key_head

__all__ = ["mi_family", "mi_family_examples"]


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of recurrent layers and attention, most or all of them with experts."""
    norm, attention = one_plus_norm(config), gated_attention(config, n_kv_heads=2)
    net = delta_net(config, norm.eps)
    dense, sparse, recurrent = gated_mlp(config), sparse_by_step(config), linear_layers(config)
    normalise = config.flag("norm_topk_prob", default=True)
    experts = mixture_beside_shared(config, 512, 10, d_mlp=512, d_shared=512, normalise=normalise)

    def layer(index: int) -> Layer:
        mixer = net if recurrent[index] else attention
        return Layer(mixer, experts if sparse(index) else dense, ln1=norm, ln2=norm)

    model = decoder(config, layer, norm, reach(config, attention))
    names = {**gated_names(attention), **moe_names(shared="shared_expert"), **BESIDE_SHARED, **delta_names(net)}
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=names, inert=LEARNING_TO_ROUTE, dropped=SEVERAL_TOKENS)


def delta_names(net: GatedDeltaNet) -> Mapping[str, Source]:
    """Where recurrent layers find their matrices, which lie key head by key head in two of the checkpoint's."""
    shared = net.n_heads // net.n_key_heads
    wide = (net.d_key, net.d_key, shared * net.d_value, shared * net.d_value)
    narrow = (shared, shared)
    stem = "model.layers.*.linear_attn.in_proj"
    return {
        **DELTA_NAMES,
        "layers.*.mixer.qkv": (f"{stem}_qkvz", of_each_key_head(net, wide, (0, 1, 2))),
        "layers.*.mixer.output_gate": (f"{stem}_qkvz", of_each_key_head(net, wide, (3,))),
        "layers.*.mixer.beta": (f"{stem}_ba", of_each_key_head(net, narrow, (0,))),
        "layers.*.mixer.decay_weight": (f"{stem}_ba.weight", of_each_key_head(net, narrow, (1,))),
    }


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: shared keys and a dense layer; as many keys as values, every layer sparse, tied, older spelling."""
    tiny = {"model_type": "qwen3_next", **TINY, "num_hidden_layers": 2, "head_dim": 16, "num_experts_per_tok": 3}
    tiny |= {"num_experts": 6, "moe_intermediate_size": 20, "shared_expert_intermediate_size": 24}
    tiny |= {"linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 8}
    linear, full = "linear_attention", "full_attention"
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    return (
        tiny
        | {"linear_num_key_heads": 2, "layer_types": [linear, full], "mlp_only_layers": [0]}
        | {"rope_parameters": rope},
        tiny
        | {"linear_num_key_heads": 4, "linear_conv_kernel_dim": 3, "layer_types": [full, linear], "rope_theta": 1e3}
        | {"norm_topk_prob": False, "attention_bias": True, "tie_word_embeddings": True},
    )
