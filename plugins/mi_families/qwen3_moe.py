"""Qwen 3 with experts (30B-A3B, 235B-A22B), and everything else that ships as ``model_type: qwen3_moe``.

Traits: Qwen 3 with mixtures of experts in some or all layers, without a shared expert.
Source: Yang et al. 2025, arXiv:2505.09388; transformers 5.24, models/qwen3_moe.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Experts, HeadNorm, Layer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.moe_config import LEARNING_TO_ROUTE, gate, moe_names, n_experts, sparse_by_step
from mi_decoder.rope_config import rotary
from mi_decoder.routing import TopK
from mi_decoder.translation import NORMED_HEADS, blueprint, decoder, gated_mlp, heads, or_none

NAMES = {**NORMED_HEADS, **moe_names()}
INERT = {**LEARNING_TO_ROUTE, "max_window_layers": "the reference gives all layers the same window"}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers differ in whether they have experts."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=4)
    n_ctx = config.size("max_position_embeddings", default=32768)
    positions = rotary(config, d_head, n_ctx)
    window = config.size("sliding_window", default=or_none(config, "sliding_window", 4096))
    window = window if config.flag("use_sliding_window", default=False) else None
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0))
    bias = config.flag("attention_bias", default=False)
    values: dict[str, Any] = {"bias": bias, "out_bias": bias, "qk_norm": HeadNorm(norm), "window": window}
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, **values)
    normalise = config.flag("norm_topk_prob", default=False)
    experts = Experts(
        n_experts=n_experts(config, "num_experts", "num_local_experts", default=128),
        d_mlp=config.size("moe_intermediate_size", default=768),
        routing=TopK(config.size("num_experts_per_tok", default=8), normalise=normalise),
        neurons=gate(config),
        rounded=True,
    )
    dense, sparse = gated_mlp(config), sparse_by_step(config)

    def layer(index: int) -> Layer:
        return Layer(mixer, experts if sparse(index) else dense, ln1=norm, ln2=norm)

    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False), names=NAMES, inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: normalised weights, a dense layer, a window; every layer sparse, biases, in the older spelling."""
    tiny = {"model_type": "qwen3_moe", **TINY, "num_hidden_layers": 2, "num_experts_per_tok": 3, "head_dim": 12}
    tiny |= {"moe_intermediate_size": 20}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4}
    return (
        tiny
        | {"num_experts": 8, "norm_topk_prob": True, "decoder_sparse_step": 2, "rope_parameters": yarn}
        | {"use_sliding_window": True, "sliding_window": 4},
        tiny
        | {"num_experts": 5, "attention_bias": True, "rope_theta": 1e3, "hidden_act": "gelu"}
        | {"tie_word_embeddings": True, "mlp_only_layers": []},
    )
