"""JetBrains' Mellum 2, and everything else that ships as ``model_type: mellum``.

Traits: Qwen 3 with experts, whose layers may have windows, and rotary positions by kind of layer.
Source: JetBrains 2026, huggingface.co/JetBrains; transformers 5.24, models/mellum.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Experts, HeadNorm, Layer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.moe_config import LEARNING_TO_ROUTE, dense_or_sparse, gate, moe_names, n_experts
from mi_decoder.rope_config import rope_of_kind, rotary
from mi_decoder.routing import TopK
from mi_decoder.translation import COMPUTED, NORMED_HEADS, blueprint, decoder, gated_mlp, heads, or_none
from mi_decoder.windows import layer_windows

NAMES = {**NORMED_HEADS, **moe_names()}
FURTHER = "predicts further tokens, for training"
INERT = {**LEARNING_TO_ROUTE, **dict.fromkeys(("num_mtp_layers", "mtp_layer_types", "mtp_mlp_layer_types"), FURTHER)}
DROPPED = {**COMPUTED, "mtp.*": FURTHER}
THETAS = {"full_attention": 5e5, "sliding_attention": 1e4}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers differ as lists in its config say; without them, all see everything and have experts."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=4, d_head=128)
    n_ctx = config.size("max_position_embeddings", default=131072)
    positions = {
        kind: rotary(config, d_head, n_ctx, rope=rope_of_kind(config, kind), theta=theta, theta_key="", part=1.0)
        for kind, theta in THETAS.items()
    }
    window = config.size("sliding_window", default=or_none(config, "sliding_window", 1024))
    windows = layer_windows(config, window, lambda _: False)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0))
    bias = config.flag("attention_bias", default=False)
    values: dict[str, Any] = {"bias": bias, "out_bias": bias, "qk_norm": HeadNorm(norm)}
    normalise, top_k = config.flag("norm_topk_prob", default=True), config.size("num_experts_per_tok", default=8)
    experts = Experts(
        n_experts=n_experts(config, "num_experts", "num_local_experts", default=64),
        d_mlp=config.size("moe_intermediate_size", default=896),
        routing=TopK(top_k, normalise=normalise),
        neurons=gate(config),
        rounded=True,
    )
    dense, sparse = gated_mlp(config), dense_or_sparse(config, n_dense=0)

    def layer(index: int) -> Layer:
        seen = windows[index]
        place = positions["sliding_attention" if seen else "full_attention"]
        mixer = Attention(n_heads, n_kv_heads, d_head, place, window=seen, **values)
        return Layer(mixer, experts if sparse[index] else dense, ln1=norm, ln2=norm)

    model = decoder(config, layer, norm, positions["full_attention"].scaling.reach(n_ctx))
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=NAMES, dropped=DROPPED, inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: short windows, YaRN on full layers, a dense layer; biases, weights as they are, usual positions."""
    tiny = {"model_type": "mellum", **TINY, "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 20}
    tiny |= {"head_dim": 12, "sliding_window": 4}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 5e3}
    nested = {"full_attention": yarn, "sliding_attention": {"rope_type": "default", "rope_theta": 1e3}}
    return (
        tiny
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "rope_parameters": nested}
        | {"mlp_layer_types": ["dense", "sparse", "sparse"]},
        tiny
        | {"attention_bias": True, "norm_topk_prob": False, "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
        | {"layer_types": ["full_attention", "sliding_attention", "full_attention"], "sliding_window": 3},
    )
