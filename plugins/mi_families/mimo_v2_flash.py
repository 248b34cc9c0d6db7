"""MiMo-V2-Flash, and everything else that ships as ``model_type: mimo_v2_flash``.

Traits: windows on most layers, which then have sinks, twice the key heads and a rotary base of their own; values that
are narrower than keys and multiplied by a factor; DeepSeek 3's experts behind the first layer, none shared.
Source: Xiaomi 2026, arXiv:2601.02780; transformers 5.24, models/mimo_v2_flash.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Layer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.moe_config import BIASED_ROUTER, LEARNING_TO_ROUTE, dense_or_sparse, moe_names, sigmoid_experts
from mi_decoder.rope_config import rope_of_kind, rotary
from mi_decoder.translation import COMPUTED, LLAMA_NAMES, Source, blueprint, decoder, gated_mlp, heads, or_none
from mi_decoder.values import ScaledValues
from mi_decoder.windows import layer_windows

NAMES: Mapping[str, Source] = {
    **LLAMA_NAMES,
    **moe_names(),
    **BIASED_ROUTER,
    "layers.*.mixer.sink_bias": "model.layers.*.self_attn.attention_sink_bias",
}
DROPPED = {**COMPUTED, "model.mtp.*": "predicts further tokens, for training"}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers differ: without a list of kinds, the first and each sixth see everything."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=4, d_head=192)
    n_ctx = config.size("max_position_embeddings", default=131072)
    near = rope_of_kind(config, "sliding_attention", scaled=False)
    sliding = rotary(config, d_head, n_ctx, rope=near, theta=1e4, theta_key="swa_rope_theta", part=0.334)
    far = rope_of_kind(config, "full_attention", scaled=True)
    full = rotary(config, d_head, n_ctx, rope=far, theta=5e6, part=0.334)
    window = config.size("sliding_window", default=129)
    before = config.size("sliding_window_size", default=None)  # the query's own position is not counted here
    windows = layer_windows(config, before + 1 if before else window, lambda index: index > 0 and (index + 1) % 6 != 0)
    factor = config.number("attention_value_scale", default=or_none(config, "attention_value_scale", 0.707))
    values: dict[str, Any] = {"bias": config.flag("attention_bias", default=False)}
    values |= {"d_value": config.size("v_head_dim", default=128), "values": ScaledValues(factor) if factor else None}
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-5, at_least=0.0))
    sparse, dense, experts = dense_or_sparse(config), gated_mlp(config), sigmoid_experts(config)

    def layer(index: int) -> Layer:
        if windows[index] is None:
            mixer = Attention(n_heads, n_kv_heads, d_head, full, **values)
        else:
            mixer = Attention(n_heads, 2 * n_kv_heads, d_head, sliding, window=windows[index], sinks=True, **values)
        return Layer(mixer, experts if sparse[index] else dense, ln1=norm, ln2=norm)

    model = decoder(config, layer, norm, full.scaling.reach(n_ctx))
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=NAMES, dropped=DROPPED, inert=LEARNING_TO_ROUTE)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: short windows, biases, groups; every layer sparse, kinds by list, other bases."""
    tiny = {"model_type": "mimo_v2_flash", **TINY, "num_experts_per_tok": 3, "moe_intermediate_size": 20}
    tiny |= {"head_dim": 12, "v_head_dim": 8, "n_routed_experts": 8, "sliding_window": 4}
    nested = {
        "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3, "partial_rotary_factor": 0.5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e3, "partial_rotary_factor": 0.5},
    }
    return (
        tiny | {"attention_bias": True, "n_group": 4, "topk_group": 2, "rope_parameters": nested},
        tiny
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 3}
        | {"mlp_layer_types": ["sparse"] * 3, "attention_value_scale": 1.3, "norm_topk_prob": False}
        | {"tie_word_embeddings": True, "rms_norm_eps": 1e-6, "routed_scaling_factor": 1.5},
    )
