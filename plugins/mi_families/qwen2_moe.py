"""Qwen 1.5 and 2 with experts (A2.7B, 57B-A14B), and everything else that ships as ``model_type: qwen2_moe``.

Traits: Qwen 2 with mixtures of experts in some layers, beside them a shared expert behind a gate of its own.
Source: Yang et al. 2024, arXiv:2407.10671; transformers 5.24, models/qwen2_moe.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Layer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.moe_config import BESIDE_SHARED, LEARNING_TO_ROUTE, mixture_beside_shared, moe_names, sparse_by_step
from mi_decoder.rope_config import rotary
from mi_decoder.translation import LLAMA_NAMES, blueprint, decoder, gated_mlp, heads, or_none
from mi_decoder.windows import layer_windows

__all__ = ["mi_family", "mi_family_examples"]

NAMES = {**LLAMA_NAMES, **moe_names(shared="shared_expert"), **BESIDE_SHARED}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers differ in their window, and in whether they have experts."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=16)
    n_ctx = config.size("max_position_embeddings", default=32768)
    positions = rotary(config, d_head, n_ctx)
    bias = config.flag("qkv_bias", default=True)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0))
    dense, sparse, windows = gated_mlp(config), sparse_by_step(config), lower_windows(config)
    normalise = config.flag("norm_topk_prob", default=False)
    experts = mixture_beside_shared(config, 60, 4, d_mlp=1408, d_shared=5632, normalise=normalise)

    def layer(index: int) -> Layer:
        mixer = Attention(n_heads, n_kv_heads, d_head, positions, bias=bias, window=windows[index])
        return Layer(mixer, experts if sparse(index) else dense, ln1=norm, ln2=norm)

    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=NAMES, inert=LEARNING_TO_ROUTE)


def lower_windows(config: Config) -> list[int | None]:
    """Windows on every second layer below ``max_window_layers``, if ``use_sliding_window`` says so.

    Trap: Qwen 2 has them on the layers above. Source: transformers 5.24, Qwen2MoeConfig.
    """
    window = config.size("sliding_window", default=or_none(config, "sliding_window", 4096), at_least=0)
    end = config.size("max_window_layers", default=28, at_least=0)
    window = window if config.flag("use_sliding_window", default=False) else None
    return layer_windows(config, window, lambda index: window is not None and index % 2 == 0 and index < end)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: a dense layer and windows; normalised weights, in the older spelling."""
    tiny = {"model_type": "qwen2_moe", **TINY, "num_hidden_layers": 2, "num_experts": 6, "num_experts_per_tok": 3}
    tiny |= {"moe_intermediate_size": 20, "shared_expert_intermediate_size": 24}
    return (
        tiny | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2, "mlp_only_layers": [1]},
        tiny
        | {"norm_topk_prob": True, "rope_theta": 1e3, "hidden_act": "gelu", "tie_word_embeddings": True}
        | {"qkv_bias": False, "rms_norm_eps": 1e-5},
    )
