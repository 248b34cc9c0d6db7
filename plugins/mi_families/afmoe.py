"""Arcee's Trinity (Nano, Mini, Large), and everything else that ships as ``model_type: afmoe``.

Traits: gates on mixed values, norms of query and key heads and around both parts; layers that have a window and
positions, or neither; behind the first layers, experts chosen by sigmoid scores with a bias, and shared ones.
Source: Arcee AI 2025, huggingface.co/arcee-ai; transformers 5.24, models/afmoe.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Experts, GatedMLP, HeadNorm, Layer, RMSNorm, WideGain
from mi_decoder.examples import TINY
from mi_decoder.moe_config import LEARNING_TO_ROUTE, gate, moe_names, n_experts
from mi_decoder.output_gate import OutputGate
from mi_decoder.rope_config import rotary
from mi_decoder.routing import TopK
from mi_decoder.translation import SANDWICH_NAMES, Source, blueprint, decoder, gated_mlp, heads, only, or_none
from mi_decoder.windows import layer_windows

__all__ = ["mi_family", "mi_family_examples"]

NAMES: Mapping[str, Source] = {
    **SANDWICH_NAMES,
    **moe_names(router="router.gate", shared="shared_experts"),
    "layers.*.ln2": "model.layers.*.pre_mlp_layernorm",
    "layers.*.ln2_post": "model.layers.*.post_mlp_layernorm",
    "layers.*.mixer.gate": "model.layers.*.self_attn.gate_proj",
    "layers.*.channel.selection_bias": "model.layers.*.mlp.expert_bias",
}
INERT = {**LEARNING_TO_ROUTE, "load_balance_coeff": "for training the router", "use_grouped_mm": "how it is computed"}
FIXED = {"score_func": "sigmoid", "route_norm": True}
FIXED |= dict.fromkeys(("n_group", "topk_group", "num_expert_groups", "num_limited_groups"), 1)


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose first layers are dense, and each fourth of whose layers sees everything."""
    n_heads, n_kv_heads, d_head = heads(config, d_head=128)
    n_ctx = config.size("max_position_embeddings", default=16384)
    positions = rotary(config, d_head, n_ctx)
    window = config.size("sliding_window", default=or_none(config, "sliding_window", 1024))
    period = config.size("global_attn_every_n_layers", default=4)
    windows = layer_windows(config, window, lambda index: (index + 1) % period != 0)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-5, at_least=0.0), WideGain())
    bias, n_dense = config.flag("attention_bias", default=False), config.size("num_dense_layers", default=1, at_least=0)
    dense, mixture = gated_mlp(config), experts(config)

    def layer(index: int) -> Layer:
        seen = windows[index]
        values: dict[str, Any] = {"bias": bias, "out_bias": bias, "qk_norm": HeadNorm(norm), "gate": OutputGate()}
        mixer = Attention(n_heads, n_kv_heads, d_head, positions if seen else None, window=seen, **values)
        part = dense if index < n_dense else mixture
        return Layer(mixer, part, ln1=norm, ln1_post=norm, ln2=norm, ln2_post=norm)

    scale = config.size("hidden_size") ** 0.5 if config.flag("mup_enabled", default=False) else 1.0
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx), embed_scale=scale)
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False), names=NAMES, inert=INERT)


def experts(config: Config) -> Experts:
    """The experts of a layer, and the shared ones as one wide MLP."""
    for key, wanted in FIXED.items():
        only(config, key, wanted)
    scale, neurons = config.number("route_scale", default=1.0), gate(config)
    top_k, d_mlp = config.size("num_experts_per_tok", default=6), config.size("moe_intermediate_size", default=1408)
    return Experts(
        n_experts=n_experts(config, "num_experts", "num_local_experts", default=64),
        d_mlp=d_mlp,
        routing=TopK(top_k, score="sigmoid", normalise=True, extra=1e-20, scale=scale),
        neurons=neurons,
        shared=GatedMLP(d_mlp * config.size("num_shared_experts", default=2), neurons.activation),
        selection_bias=True,
    )


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: scaled embeddings, biases, a scaling; every layer sparse, kinds by list, in the older spelling."""
    tiny = {"model_type": "afmoe", **TINY, "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 20}
    tiny |= {"head_dim": 12, "sliding_window": 4}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    return (
        tiny
        | {"mup_enabled": True, "attention_bias": True, "rope_parameters": linear, "route_scale": 1.7}
        | {"global_attn_every_n_layers": 2, "num_dense_layers": 2},
        tiny
        | {"layer_types": ["full_attention", "sliding_attention", "sliding_attention"], "num_dense_layers": 0}
        | {"sliding_window": 3, "num_shared_experts": 1, "rope_theta": 1e3, "rms_norm_eps": 1e-6}
        | {"tie_word_embeddings": True},
    )
