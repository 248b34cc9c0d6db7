"""Gemma 2, Gemma Scope's models, and everything else that ships as ``model_type: gemma2``.

Traits: Gemma with norms before and behind both parts, soft-caps on scores and logits, a window on every other layer.
Source: Gemma Team 2024, arXiv:2408.00118; transformers 5.24, models/gemma2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Layer, OnePlusGain, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.rope_config import rotary
from mi_decoder.translation import SANDWICH_NAMES, blueprint, decoder, gated_mlp, heads, only, or_none
from mi_decoder.windows import layer_windows

INERT = {"hidden_act": "a spelling that the reference does not read"}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers differ in their window only; a cap that is null is none."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=4, d_head=256)
    n_ctx = config.size("max_position_embeddings", default=8192)
    positions = rotary(config, d_head, n_ctx)
    only(config, "use_bidirectional_attention", False)
    bias = config.flag("attention_bias", default=False)
    window = config.size("sliding_window", default=or_none(config, "sliding_window", 4096))
    windows = layer_windows(config, window, lambda index: index % 2 == 0)
    caps = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    score_cap, logit_cap = (
        config.number(key, default=or_none(config, key, cap), at_least=1e-9) for key, cap in caps.items()
    )
    scale = config.number("query_pre_attn_scalar", default=256.0, at_least=1e-9) ** -0.5
    values: dict[str, Any] = {"bias": bias, "out_bias": bias, "softcap": score_cap, "scale": scale}
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0), OnePlusGain())
    mlp = gated_mlp(config, key="hidden_activation", activation="gelu_pytorch_tanh")

    def layer(index: int) -> Layer:
        mixer = Attention(n_heads, n_kv_heads, d_head, positions, window=windows[index], **values)
        return Layer(mixer, mlp, ln1=norm, ln1_post=norm, ln2=norm, ln2_post=norm)

    outside = {"embed_scale": config.size("hidden_size") ** 0.5, "logit_softcap": logit_cap}
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx), **outside)
    tied = config.flag("tie_word_embeddings", default=True)
    return blueprint(model, tensors, tied=tied, names=SANDWICH_NAMES, inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: caps that bite and short windows; none of them, in the older spelling."""
    tiny = {"model_type": "gemma2", **TINY, "head_dim": 12}
    caps = {"attn_logit_softcapping": 0.5, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 5}
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    return (
        tiny | caps | {"sliding_window": 4, "attention_bias": True, "rope_parameters": {"rope_theta": 1e3}},
        tiny
        | {"attn_logit_softcapping": None, "final_logit_softcapping": None, "rope_theta": 5e3, "sliding_window": 3}
        | {"hidden_activation": "silu", "rms_norm_eps": 1e-5, "layer_types": kinds, "tie_word_embeddings": False},
    )
