"""Flint, and everything else that ships as ``model_type: flint``.

Traits: LLaMA with norms of query and key heads, attention sinks, layers that have a window and positions, or neither;
behind the first layers, experts chosen by sigmoid scores, and a shared one.
Source: transformers 5.24, models/flint.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Experts, GatedMLP, HeadNorm, Layer, RMSNorm, WideGain
from mi_decoder.examples import TINY
from mi_decoder.moe_config import LEARNING_TO_ROUTE, gate, moe_names, n_experts, sparse_by_step
from mi_decoder.rope_config import rotary
from mi_decoder.routing import TopK
from mi_decoder.translation import NORMED_HEADS, Source, blueprint, decoder, gated_mlp, heads
from mi_decoder.windows import layer_windows

__all__ = ["mi_family", "mi_family_examples"]

NAMES: Mapping[str, Source] = {
    **NORMED_HEADS,
    **moe_names(shared="shared_expert"),
    "layers.*.mixer.sink_bias": "model.layers.*.self_attn.softmax_offset",
}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers differ: without a list, the first two, each fourth and the last see everything."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=4, d_head=128)
    n_ctx, n_layers = config.size("max_position_embeddings", default=262144), config.size("num_hidden_layers")
    positions = rotary(config, d_head, n_ctx)
    window = config.size("sliding_window", default=513)
    windows = layer_windows(config, window, lambda index: not (index < 2 or index % 4 == 1 or index + 1 == n_layers))
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0), WideGain())
    bias = config.flag("attention_bias", default=False)
    values: dict[str, Any] = {"bias": bias, "out_bias": bias, "qk_norm": HeadNorm(norm), "sinks": True}
    dense, sparse, mixture = gated_mlp(config), sparse_by_step(config, (0, 1)), experts(config)

    def layer(index: int) -> Layer:
        seen = windows[index]
        mixer = Attention(n_heads, n_kv_heads, d_head, positions if seen else None, window=seen, **values)
        return Layer(mixer, mixture if sparse(index) else dense, ln1=norm, ln2=norm)

    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=NAMES, inert=LEARNING_TO_ROUTE)


def experts(config: Config) -> Experts:
    """The experts of a layer, and the shared one."""
    normalise, neurons = config.flag("norm_topk_prob", default=True), gate(config)
    return Experts(
        n_experts=n_experts(config, "num_experts", "num_local_experts", default=256),
        d_mlp=config.size("moe_intermediate_size", default=512),
        routing=TopK(config.size("num_experts_per_tok", default=6), score="sigmoid", normalise=normalise),
        neurons=neurons,
        shared=GatedMLP(config.size("shared_expert_intermediate_size", default=1024), neurons.activation),
        wide_router=True,
    )


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: short windows, biases, a scaling; every layer sparse, kinds by list, in the older spelling."""
    tiny = {"model_type": "flint", **TINY, "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 20}
    tiny |= {"head_dim": 12, "sliding_window": 4, "shared_expert_intermediate_size": 24}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    return (
        tiny | {"num_hidden_layers": 4, "attention_bias": True, "rope_parameters": linear},
        tiny
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "mlp_only_layers": []}
        | {"rope_theta": 1e3, "norm_topk_prob": False, "sliding_window": 3, "tie_word_embeddings": True}
        | {"rms_norm_eps": 1e-5},
    )
