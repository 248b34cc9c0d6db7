"""Hunyuan 3 (Hy3), and everything else that ships as ``model_type: hy_v3``.

Traits: LLaMA with norms of query and key heads; behind the first layer, experts chosen by sigmoid scores with a bias,
and shared ones. Source: Tencent 2026, huggingface.co/tencent; transformers 5.24, models/hy_v3.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Experts, GatedMLP, HeadNorm, Layer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.moe_config import LEARNING_TO_ROUTE, dense_or_sparse, gate, moe_names, n_experts, spare_layers
from mi_decoder.rope_config import rotary
from mi_decoder.routing import TopK
from mi_decoder.translation import COMPUTED, NORMED_HEADS, Source, blueprint, decoder, gated_mlp, heads

__all__ = ["mi_family", "mi_family_examples"]

NAMES: Mapping[str, Source] = {
    **NORMED_HEADS,
    **moe_names(router="router.gate", shared="shared_mlp"),
    "layers.*.channel.selection_bias": "model.layers.*.mlp.expert_bias",
}
INERT = {**LEARNING_TO_ROUTE, "enable_moe_fp32_combine": "a sum of two is rounded once, either way"}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose first layer is dense, unless its config says which are."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=8, d_head=128)
    n_ctx = config.size("max_position_embeddings", default=131072)
    positions = rotary(config, d_head, n_ctx)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-5, at_least=0.0))
    bias, mlp_bias = (config.flag(key, default=False) for key in ("attention_bias", "mlp_bias"))
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, bias=bias, out_bias=bias, qk_norm=HeadNorm(norm))
    dense, sparse, mixture = gated_mlp(config, bias=mlp_bias), dense_or_sparse(config), experts(config, mlp_bias)
    dropped = {**COMPUTED, **spare_layers(config, "num_nextn_predict_layers")}

    def layer(index: int) -> Layer:
        return Layer(mixer, mixture if sparse[index] else dense, ln1=norm, ln2=norm)

    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=NAMES, dropped=dropped, inert=INERT)


def experts(config: Config, bias: bool) -> Experts:
    """The experts of a layer, and the shared ones as one wide MLP, which alone has biases."""
    scale, neurons = config.number("router_scaling_factor", default=2.826), gate(config)
    d_mlp = config.size("moe_intermediate_size", default=1536)
    return Experts(
        n_experts=n_experts(config, "num_experts", "num_local_experts", default=192),
        d_mlp=d_mlp,
        routing=TopK(
            config.size("num_experts_per_tok", default=8), score="sigmoid", normalise=True, extra=1e-20, scale=scale
        ),
        neurons=neurons,
        shared=GatedMLP(d_mlp * config.size("num_shared_experts", default=1), neurons.activation, bias=bias),
        selection_bias=True,
        wide_router=True,
    )


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: biases, two shared experts, a scaling; kinds by list, in the older spelling."""
    tiny = {"model_type": "hy_v3", **TINY, "num_hidden_layers": 2, "num_experts": 6, "num_experts_per_tok": 3}
    tiny |= {"moe_intermediate_size": 20, "head_dim": 12}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    return (
        tiny
        | {"attention_bias": True, "mlp_bias": True, "num_shared_experts": 2, "rope_parameters": linear}
        | {"router_scaling_factor": 1.7},
        tiny
        | {"mlp_layer_types": ["sparse", "sparse"], "rope_theta": 1e3, "rms_norm_eps": 1e-6, "hidden_act": "gelu"}
        | {"tie_word_embeddings": True},
    )
