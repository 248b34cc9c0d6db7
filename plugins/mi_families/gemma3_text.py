"""Gemma 3's text models (270m, 1b), and everything else that ships as ``model_type: gemma3_text``.

Traits: Gemma 2 with norms of queries and keys instead of score caps; windowed layers turn by another base.
Source: Gemma Team 2025, arXiv:2503.19786; transformers 5.24, models/gemma3.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, HeadNorm, Layer, OnePlusGain, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.rope_config import rope_of_kind, rotary
from mi_decoder.translation import SANDWICH_NAMES, blueprint, decoder, gated_mlp, heads, only
from mi_decoder.windows import alternating_windows

INERT = {
    "hidden_act": "a spelling that the reference does not read",
    "_sliding_window_pattern": "layer_types, in short",
    "attn_logit_softcapping": "the reference does not cap these models' scores",
}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers differ in their window and in the base of their rotary positions."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=4, d_head=256)
    n_ctx = config.size("max_position_embeddings", default=131072)
    full = rotary(config, d_head, n_ctx, rope=rope_of_kind(config, "full_attention", scaled=True), theta=1e6)
    near = rope_of_kind(config, "sliding_attention", scaled=False)
    sliding = rotary(config, d_head, n_ctx, rope=near, theta=1e4, theta_key="rope_local_base_freq")
    only(config, "use_bidirectional_attention", False)
    bias, windows = config.flag("attention_bias", default=False), alternating_windows(config, 6)
    cap = config.number("final_logit_softcapping", default=None, at_least=1e-9)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0), OnePlusGain())
    values: dict[str, Any] = {"bias": bias, "out_bias": bias, "qk_norm": HeadNorm(norm)}
    values["scale"] = config.number("query_pre_attn_scalar", default=256.0, at_least=1e-9) ** -0.5
    mlp = gated_mlp(config, key="hidden_activation", activation="gelu_pytorch_tanh")

    def layer(index: int) -> Layer:
        window = windows[index]
        mixer = Attention(n_heads, n_kv_heads, d_head, sliding if window else full, window=window, **values)
        return Layer(mixer, mlp, ln1=norm, ln1_post=norm, ln2=norm, ln2_post=norm)

    outside = {"embed_scale": config.size("hidden_size") ** 0.5, "logit_softcap": cap}
    model = decoder(config, layer, norm, full.scaling.reach(n_ctx), **outside)
    tied = config.flag("tie_word_embeddings", default=True)
    return blueprint(model, tensors, tied=tied, names=SANDWICH_NAMES, inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: everything on, a base and a scaling for each kind of layer; the older spelling."""
    tiny = {"model_type": "gemma3_text", **TINY, "head_dim": 12, "query_pre_attn_scalar": 5}
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    linear = {"rope_type": "linear", "factor": 2.0}
    rope = {"full_attention": {**linear, "rope_theta": 5e3}, "sliding_attention": {"rope_theta": 100.0}}
    return (
        tiny
        | {"sliding_window": 4, "layer_types": kinds, "rope_parameters": rope}
        | {
            "final_logit_softcapping": 2.0,
            "attn_logit_softcapping": 0.5,
            "attention_bias": True,
            "tie_word_embeddings": False,
        },
        tiny
        | {"sliding_window": 3, "sliding_window_pattern": 2, "rope_theta": 5e3, "rope_local_base_freq": 50.0}
        | {"rope_scaling": linear, "hidden_activation": "silu", "rms_norm_eps": 1e-5},
    )
