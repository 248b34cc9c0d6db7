"""Hunyuan with experts (A13B), and everything else that ships as ``model_type: hunyuan_v1_moe``.

Traits: Hunyuan with mixtures of experts in every layer, beside which a shared MLP reads every token.
Source: Tencent Hunyuan Team 2025, Hunyuan-A13B; transformers 5.24, models/hunyuan_v1_moe.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Experts, GatedMLP, HeadNorm, Layer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.moe_config import LEARNING_TO_ROUTE, gate, moe_names
from mi_decoder.routing import TopK
from mi_decoder.translation import blueprint, decoder, heads
from mi_families import hunyuan_v1_dense as dense

__all__ = ["mi_family", "mi_family_examples"]

NAMES = {**dense.NAMES, **moe_names(router="gate.wg", shared="shared_mlp")}
NOTES = (
    *("use_mixed_mlp_moe", "num_shared_expert", "moe_intermediate_size", "moe_layer_num_skipped", "moe_drop_tokens"),
    *("moe_random_routing_dropped_token", "capacity_factor", "norm_topk_prob", "routed_scaling_factor", "n_group"),
    *("group_limited_greedy", "topk_group", "use_qk_norm", "use_cla", "cla_share_factor", "mlp_bias"),
    *("position_embedding_xdrope", "add_classification_head", "class_num", "dense_list", "org_vocab_size"),
)
INERT = {**dense.INERT, **LEARNING_TO_ROUTE, "sep_token_id": "a token id that only texts need"}
INERT |= {"pretraining_tp": "how training split matrices", **dict.fromkeys(NOTES, "not read by the reference")}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    n_heads, n_kv_heads, d_head = heads(config)
    n_ctx = config.size("max_position_embeddings", default=2048)
    positions = dense.stretched(config, d_head, n_ctx)
    bias = config.flag("attention_bias", default=False)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-5, at_least=0.0))
    values: dict[str, Any] = {"bias": bias, "out_bias": bias, "qk_norm": HeadNorm(norm, late=True)}
    neurons, d_mlp = gate(config), config.size("intermediate_size")
    experts = Experts(
        n_experts=same_in_all_layers(config, "num_experts"),
        d_mlp=d_mlp,
        routing=TopK(same_in_all_layers(config, "moe_topk"), normalise=True),
        neurons=neurons,
        shared=GatedMLP(d_mlp, neurons.activation),
        wide_router=True,
    )
    layer = Layer(Attention(n_heads, n_kv_heads, d_head, positions, **values), experts, ln1=norm, ln2=norm)
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=NAMES, inert=INERT)


def same_in_all_layers(config: Config, key: str) -> int:
    """A number that a config may give for each layer.

    Raises:
        BadConfig: layers that differ, which the reference does not load either.
    """
    found = config.get(key, 1)
    numbers = set(found) if isinstance(found, list) else {found}
    if len(numbers) != 1 or not all(isinstance(number, int) and number > 0 for number in numbers):
        raise BadConfig(
            f"{config.where}: {key!r} is {found!r}, it must be one number for all layers.", path=config.where
        )
    number: int = numbers.pop()
    return number


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: as published; biases and another scaling, in the older spelling."""
    tiny = {"model_type": "hunyuan_v1_moe", **TINY, "num_hidden_layers": 2, "head_dim": 12, "num_experts": 6}
    tiny |= {"moe_topk": 3, "intermediate_size": 20}
    alpha = {"rope_type": "dynamic", "alpha": 50.0, "factor": 1.0, "beta_fast": 32, "beta_slow": 1, "rope_theta": 1e3}
    return (
        tiny | {"rope_parameters": alpha, "tie_word_embeddings": True},
        tiny
        | {"attention_bias": True, "rope_theta": 1e3, "rope_scaling": {"type": "linear", "factor": 2.0}}
        | {"rms_norm_eps": 1e-6, "hidden_act": "gelu", "moe_topk": 2},
    )
