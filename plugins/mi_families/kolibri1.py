"""Aleph Alpha's Kolibri 1, and everything else that ships as ``model_type: kolibri1``.

Traits: norms of query and key heads and around both parts; layers that have a window and positions, or neither;
experts in every layer, chosen by their logits and a bias, weighted by sigmoid scores, and a shared one.
Source: Aleph Alpha 2026, huggingface.co/Aleph-Alpha; transformers 5.24, models/kolibri1.
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
from mi_decoder.moe_config import LEARNING_TO_ROUTE, gate, moe_names, n_experts
from mi_decoder.rope_config import rotary
from mi_decoder.routing import TopK
from mi_decoder.translation import NORMED_HEADS, Source, blueprint, decoder, heads, or_none
from mi_decoder.windows import layer_windows

__all__ = ["mi_family", "mi_family_examples"]

NAMES: Mapping[str, Source] = {
    **NORMED_HEADS,
    **moe_names(shared="shared_experts"),
    "layers.*.ln1_post": "model.layers.*.post_attn_norm",
    "layers.*.ln2_post": "model.layers.*.post_ffn_norm",
    "layers.*.channel.selection_bias": "model.layers.*.moe.router.expert_bias",
}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder each fifth of whose layers sees everything, unless its config lists their kinds."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=4, d_head=128)
    n_ctx = config.size("max_position_embeddings", default=262144)
    positions = rotary(config, d_head, n_ctx)
    window = config.size("sliding_window", default=or_none(config, "sliding_window", 513))
    if window is None:
        raise BadConfig(f"{config.where}: 'sliding_window' is null, and the reference needs one.", path=config.where)
    windows = layer_windows(config, window, lambda index: (index + 1) % 5 != 0)
    norm, mixture = RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0)), experts(config)

    def layer(index: int) -> Layer:
        seen = windows[index]
        place = positions if seen else None
        mixer = Attention(n_heads, n_kv_heads, d_head, place, window=seen, qk_norm=HeadNorm(norm))
        return Layer(mixer, mixture, ln1=norm, ln1_post=norm, ln2=norm, ln2_post=norm)

    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=NAMES, inert=LEARNING_TO_ROUTE)


def experts(config: Config) -> Experts:
    """The experts of a layer, and the shared one."""
    normalise, neurons = config.flag("norm_topk_prob", default=False), gate(config)
    top_k = config.size("num_experts_per_tok", default=6)
    return Experts(
        n_experts=n_experts(config, "num_experts", "num_local_experts", default=384),
        d_mlp=config.size("moe_intermediate_size", default=512),
        routing=TopK(top_k, score="sigmoid", normalise=normalise, by_logits=True),
        neurons=neurons,
        shared=GatedMLP(config.size("shared_expert_intermediate_size", default=512), neurons.activation),
        selection_bias=True,
        wide_router=True,
    )


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: short windows, a scaling; normalised weights, in the older spelling."""
    tiny = {"model_type": "kolibri1", **TINY, "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 20}
    tiny |= {"head_dim": 12, "sliding_window": 4, "shared_expert_intermediate_size": 24}
    del tiny["intermediate_size"]
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    return (
        tiny | {"layer_types": kinds, "rope_parameters": linear},
        tiny
        | {"norm_topk_prob": True, "rope_theta": 1e3, "sliding_window": 3, "rms_norm_eps": 1e-5}
        | {"tie_word_embeddings": True},
    )
