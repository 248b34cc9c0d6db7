"""Poolside's Laguna, and everything else that ships as ``model_type: laguna``.

Traits: LLaMA with gates on mixed values and norms of query and key heads; layers of different numbers of heads, windows
and rotary positions; behind the first layer, experts chosen by sigmoid scores with a bias, and a shared one.
Source: Poolside 2026, huggingface.co/poolside; transformers 5.24, models/laguna.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch.nn.functional import softplus

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Experts, GatedMLP, HeadNorm, Layer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.moe_config import LEARNING_TO_ROUTE, dense_or_sparse, gate, moe_names, n_experts
from mi_decoder.output_gate import OutputGate
from mi_decoder.rope_config import rope_of_kind, rotary
from mi_decoder.routing import TopK
from mi_decoder.translation import NORMED_HEADS, Source, blueprint, decoder, gated_mlp, heads, only
from mi_decoder.windows import layer_windows

__all__ = ["mi_family", "mi_family_examples"]

NAMES: Mapping[str, Source] = {
    **NORMED_HEADS,
    **moe_names(shared="shared_expert"),
    "layers.*.mixer.gate": "model.layers.*.self_attn.g_proj",
    "layers.*.channel.selection_bias": "model.layers.*.mlp.experts.e_score_correction_bias",
}
ROPE: Mapping[str, Mapping[str, Any]] = {
    "full_attention": {"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 0.5},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0},
}
"""What the reference takes for positions that a config leaves out. Source: transformers 5.24, LagunaConfig."""


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers differ as its config says; without lists, the first is dense and all see everything."""
    _, n_kv_heads, d_head = heads(config, n_kv_heads=8, d_head=128)
    n_ctx, counts = config.size("max_position_embeddings", default=131072), heads_of_layers(config, n_kv_heads)
    windows = layer_windows(config, config.size("sliding_window", default=512), lambda _: False)
    positions = {
        kind: rotary(config, d_head, n_ctx, rope=rope_of_kind(config, kind, absent=absent), theta_key="", part=1.0)
        for kind, absent in ROPE.items()
    }
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0))
    bias, kind = config.flag("attention_bias", default=False), config.get("gating", True)
    values: dict[str, Any] = {"bias": bias, "out_bias": bias, "qk_norm": HeadNorm(norm)}
    values["gate"] = OutputGate(softplus, by_head=kind in (True, "per-head"), wide=True)
    dense, sparse, mixture = gated_mlp(config), dense_or_sparse(config), experts(config)

    def layer(index: int) -> Layer:
        window = windows[index]
        place = positions["sliding_attention" if window else "full_attention"]
        mixer = Attention(counts[index], n_kv_heads, d_head, place, window=window, **values)
        return Layer(mixer, mixture if sparse[index] else dense, ln1=norm, ln2=norm)

    model = decoder(config, layer, norm, positions["full_attention"].scaling.reach(n_ctx))
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=NAMES, inert=LEARNING_TO_ROUTE)


def heads_of_layers(config: Config, n_kv_heads: int) -> list[int]:
    """How many query heads each layer has."""
    n_layers = config.size("num_hidden_layers")
    found = config.get("num_attention_heads_per_layer") or [config["num_attention_heads"]] * n_layers
    fits = isinstance(found, list) and len(found) == n_layers
    if not fits or not all(type(count) is int and count > 0 and count % n_kv_heads == 0 for count in found):
        raise BadConfig(
            f"{config.where}: 'num_attention_heads_per_layer' is {found!r}, it must be a list of {n_layers} multiples "
            f"of 'num_key_value_heads' ({n_kv_heads!r}).",
            path=config.where,
        )
    return list(found)


def experts(config: Config) -> Experts:
    """The experts of a layer, and the shared one."""
    only(config, "moe_apply_router_weight_on_input", False)
    scale, neurons = config.number("moe_routed_scaling_factor", default=1.0), gate(config)
    cap = config.number("moe_router_logit_softcapping", default=0.0, at_least=0.0) or None
    top_k = config.size("num_experts_per_tok", default=8)
    return Experts(
        n_experts=n_experts(config, "num_experts", "num_local_experts", default=256),
        d_mlp=config.size("moe_intermediate_size", default=512),
        routing=TopK(top_k, score="sigmoid", normalise=True, scale=scale, cap=cap),
        neurons=neurons,
        shared=GatedMLP(config.size("shared_expert_intermediate_size", default=512), neurons.activation),
        selection_bias=True,
        rounded=True,
    )


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: heads, windows and positions by layer, squeezed router logits; gates of every number, biases."""
    tiny = {"model_type": "laguna", **TINY, "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 20}
    tiny |= {"head_dim": 12, "sliding_window": 4, "shared_expert_intermediate_size": 24}
    nested = {
        "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3, "partial_rotary_factor": 0.5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
    }
    return (
        tiny
        | {"num_attention_heads_per_layer": [4, 8, 2], "moe_routed_scaling_factor": 1.7, "rope_parameters": nested}
        | {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}
        | {"moe_router_logit_softcapping": 1.5},
        tiny
        | {"gating": "per-element", "attention_bias": True, "mlp_layer_types": ["sparse", "dense", "sparse"]}
        | {"tie_word_embeddings": True, "rms_norm_eps": 1e-5},
    )
