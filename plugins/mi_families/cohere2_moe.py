"""Command A with experts, and everything else that ships as ``model_type: cohere2_moe``.

Traits: Cohere 2 with experts behind the first layers, chosen by their logits, perhaps averaged with a shared one.
Source: Cohere 2026, huggingface.co/CohereLabs; transformers 5.24, models/cohere2_moe.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Experts, GatedMLP, LayerNorm, ParallelLayer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.moe_config import LEARNING_TO_ROUTE, dense_or_sparse, gate, moe_names, n_experts
from mi_decoder.rope_config import rotary
from mi_decoder.routing import ChosenSoftmax, Routing, TopK
from mi_decoder.translation import LLAMA_NAMES, blueprint, decoder, heads, or_none
from mi_decoder.windows import layer_windows

__all__ = ["mi_family", "mi_family_examples"]

NAMES = {**LLAMA_NAMES, **moe_names(shared="shared_experts")}
JOINED = {"average": 0.5, "sum": 1.0}
"""What the sum of routed and shared experts is multiplied by."""


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers have a window and positions, or neither; dense ones may have positions alone."""
    n_heads, n_kv_heads, d_head = heads(config, d_head=128)
    n_ctx = config.size("max_position_embeddings", default=8192)
    positions = rotary(config, d_head, n_ctx, interleaved=True, wide=True)
    sparse, bias = dense_or_sparse(config, n_dense=0), config.flag("attention_bias", default=False)
    turned = config.size("prefix_dense_sliding_window_pattern", default=1)
    period, n_dense = config.size("sliding_window_pattern", default=4), sparse.count(False)
    window = config.size("sliding_window", default=or_none(config, "sliding_window", 4096))

    def slides(index: int) -> bool:
        return bool((index + 1) % turned if index < n_dense else (index - n_dense + 1) % period)

    windows, norm = layer_windows(config, window, slides), norm_of(config)
    mixture, joined = experts(config), config.choice("shared_expert_combination_strategy", JOINED, default="average")
    multiplier = JOINED[joined] if mixture.shared else 1.0
    dense = GatedMLP(config.size("prefix_dense_intermediate_size", default=mixture.d_mlp), gate(config).activation)

    def layer(index: int) -> ParallelLayer:
        seen = windows[index]
        place = positions if seen or (turned == 1 and not sparse[index]) else None
        mixer = Attention(n_heads, n_kv_heads, d_head, place, bias=bias, out_bias=bias, window=seen)
        if not sparse[index]:
            return ParallelLayer(mixer, dense, ln1=norm)
        return ParallelLayer(mixer, mixture, ln1=norm, mlp_multiplier=multiplier)

    scale = config.number("logit_scale", default=0.0625)
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx), logit_scale=scale)
    tied = config.flag("tie_word_embeddings", default=True)
    return blueprint(model, tensors, tied=tied, names=NAMES, inert=LEARNING_TO_ROUTE)


def norm_of(config: Config) -> LayerNorm | RMSNorm:
    """The norm of all slots: by the root mean square where a config gives its epsilon."""
    eps = config.number("rms_norm_eps", default=None, at_least=0.0)
    centred = config.number("layer_norm_eps", default=1e-5, at_least=0.0)
    return LayerNorm(centred, bias=False) if eps is None else RMSNorm(eps)


def experts(config: Config) -> Experts:
    """The experts of a layer, and the shared ones as one wide MLP."""
    d_mlp, top_k = config.size("intermediate_size"), config.size("num_experts_per_tok", default=2)
    n_shared = config.size("num_shared_experts", default=0, at_least=0)
    normalise = config.flag("norm_topk_prob", default=True)
    routing: Routing = ChosenSoftmax(top_k)
    if config.choice("expert_selection_fn", ("softmax", "sigmoid"), default="softmax") == "sigmoid":
        routing = TopK(top_k, score="sigmoid", normalise=normalise)
    neurons = gate(config)
    shared = GatedMLP(d_mlp * n_shared, neurons.activation) if n_shared else None
    number = n_experts(config, "num_experts", "num_local_experts", default=8)
    return Experts(number, d_mlp, routing, neurons, shared=shared, rounded=True)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: shared experts in a mean, a dense layer; sums, sigmoid scores; none shared, another norm."""
    tiny = {"model_type": "cohere2_moe", **TINY, "num_experts": 6, "num_experts_per_tok": 3, "head_dim": 12}
    tiny |= {"intermediate_size": 20, "sliding_window": 4}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    dense = {"mlp_layer_types": ["dense", "sparse", "sparse"], "prefix_dense_intermediate_size": 40}
    return (
        tiny
        | {**dense, "num_shared_experts": 2, "attention_bias": True, "rope_parameters": linear, "logit_scale": 0.3}
        | {"layer_types": ["full_attention", "full_attention", "sliding_attention"]},
        tiny
        | {"num_shared_experts": 1, "shared_expert_combination_strategy": "sum", "expert_selection_fn": "sigmoid"}
        | {**dense, "sliding_window": 3, "rope_theta": 1e3, "tie_word_embeddings": False}
        | {"prefix_dense_sliding_window_pattern": 2, "layer_types": ["full_attention"] + 2 * ["sliding_attention"]},
        tiny
        | {"expert_selection_fn": "sigmoid", "norm_topk_prob": False, "rms_norm_eps": 1e-5, "rope_theta": 1e3}
        | {"sliding_window_pattern": 2, "first_k_dense_replace": 1},
    )
