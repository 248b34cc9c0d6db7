"""DeepSeek V2 and V2-Lite, and everything else that ships as ``model_type: deepseek_v2``.

Traits: latent attention; behind the first layers, experts that are chosen by softmax scores, perhaps from few groups,
and shared ones. Source: DeepSeek-AI 2024, arXiv:2405.04434; transformers 5.24, models/deepseek_v2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Experts, GatedMLP, Layer, RMSNorm
from mi_decoder.deepseek import LATENT_NAMES, latent_attention
from mi_decoder.examples import TINY
from mi_decoder.moe_config import LEARNING_TO_ROUTE, gate, n_experts
from mi_decoder.routing import Groups, TopK
from mi_decoder.translation import blueprint, decoder, gated_mlp, only

__all__ = ["mi_family", "mi_family_examples"]

INERT = {
    **LEARNING_TO_ROUTE,
    "pretraining_tp": "how training split matrices",
    "norm_topk_prob": "the reference never divides weights by their sum",
}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose first layers are dense."""
    n_ctx = config.size("max_position_embeddings", default=2048)
    mixer, reach = latent_attention(config, n_ctx, wide=True)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0))
    n_dense = config.size("first_k_dense_replace", default=0, at_least=0)
    dense = gated_mlp(config, bias=config.flag("mlp_bias", default=False))
    experts = mixture(config, dense.bias)
    for key, wanted in (("moe_layer_freq", 1), ("scoring_func", "softmax")):
        only(config, key, wanted)

    def layer(index: int) -> Layer:
        return Layer(mixer, dense if index < n_dense else experts, ln1=norm, ln2=norm)

    model = decoder(config, layer, norm, reach)
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=LATENT_NAMES, inert=INERT)


def mixture(config: Config, bias: bool) -> Experts:
    """The experts of a layer, and the shared ones as one wide MLP."""
    method = config.choice("topk_method", ("greedy", "group_limited_greedy"), default="greedy")
    count, kept = config.size("n_group", default=1), config.size("topk_group", default=1)
    neurons, d_mlp = gate(config), config.size("moe_intermediate_size", default=1407)
    groups = Groups(count, kept, 1, 0.0) if method == "group_limited_greedy" else None
    scale = config.number("routed_scaling_factor", default=1.0)
    return Experts(
        n_experts=n_experts(config, "n_routed_experts", default=64),
        d_mlp=d_mlp,
        routing=TopK(config.size("num_experts_per_tok"), scale=scale, groups=groups),
        neurons=neurons,
        shared=GatedMLP(d_mlp * config.size("n_shared_experts", default=2), neurons.activation, bias=bias),
        wide_router=True,
    )


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: YaRN and groups; queries without a latent, biases, in the older spelling."""
    tiny = {"model_type": "deepseek_v2", **TINY, "num_hidden_layers": 2, "num_experts_per_tok": 3}
    tiny |= {"moe_intermediate_size": 20, "n_routed_experts": 8, "kv_lora_rank": 12, "num_key_value_heads": 4}
    tiny |= {"qk_nope_head_dim": 6, "qk_rope_head_dim": 8, "v_head_dim": 10, "q_lora_rank": 14}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4}
    yarn |= {"mscale": 0.7, "mscale_all_dim": 0.7, "beta_fast": 32.0, "beta_slow": 1.0}
    return (
        tiny
        | {"n_group": 4, "topk_group": 2, "topk_method": "group_limited_greedy", "first_k_dense_replace": 1}
        | {"rope_parameters": yarn, "routed_scaling_factor": 2.0},
        tiny
        | {"q_lora_rank": None, "attention_bias": True, "mlp_bias": True, "n_shared_experts": 1}
        | {"rope_theta": 1e3, "tie_word_embeddings": True},
    )
