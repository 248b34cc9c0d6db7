"""dots.llm1, and everything else that ships as ``model_type: dots1``.

Traits: LLaMA with norms of query and key heads; DeepSeek 3's experts behind the first layers; windows on upper layers.
Source: rednote-hilab 2025, arXiv:2506.05767; transformers 5.24, models/dots1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, HeadNorm, Layer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.moe_config import BIASED_ROUTER, LEARNING_TO_ROUTE, moe_names, sigmoid_experts
from mi_decoder.rope_config import rotary
from mi_decoder.translation import NORMED_HEADS, blueprint, decoder, gated_mlp, heads, or_none
from mi_decoder.windows import layer_windows

NAMES = {**NORMED_HEADS, **moe_names(shared="shared_experts"), **BIASED_ROUTER}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose first layers are dense, and whose upper layers may have windows."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=32)
    n_ctx = config.size("max_position_embeddings", default=2048)
    positions = rotary(config, d_head, n_ctx)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0))
    bias = config.flag("attention_bias", default=False)
    n_dense = config.size("first_k_dense_replace", default=0, at_least=0)
    dense, experts = gated_mlp(config), sigmoid_experts(config, normalise=False)
    window = config.size("sliding_window", default=or_none(config, "sliding_window", 4096))
    first = config.size("max_window_layers", default=62, at_least=0)
    windows = layer_windows(config, window, lambda index: window is not None and index >= first)

    def layer(index: int) -> Layer:
        values: dict[str, Any] = {"bias": bias, "out_bias": bias, "qk_norm": HeadNorm(norm)}
        mixer = Attention(n_heads, n_kv_heads, d_head, positions, window=windows[index], **values)
        return Layer(mixer, dense if index < n_dense else experts, ln1=norm, ln2=norm)

    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=NAMES, inert=LEARNING_TO_ROUTE)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: a window on the upper layer, biases; groups and normalised weights, in the older spelling."""
    tiny = {"model_type": "dots1", **TINY, "num_hidden_layers": 2, "num_experts_per_tok": 3}
    tiny |= {"moe_intermediate_size": 20, "n_routed_experts": 8, "n_shared_experts": 2}
    return (
        tiny
        | {"first_k_dense_replace": 1, "sliding_window": 4, "max_window_layers": 1, "attention_bias": True}
        | {"routed_scaling_factor": 2.5},
        tiny | {"norm_topk_prob": True, "n_group": 2, "topk_group": 1, "rope_theta": 1e3, "sliding_window": None},
    )
