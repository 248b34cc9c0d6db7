"""Gemma 3's text decoder, which ships alone and inside image-and-text checkpoints.

Source: Gemma Team 2025, arXiv:2503.19786; transformers 5.24, models/gemma3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mi_core.config import Config
from mi_decoder.attention import Attention
from mi_decoder.decoder import Decoder
from mi_decoder.gains import OnePlusGain
from mi_decoder.head_norms import HeadNorm
from mi_decoder.layers import Layer
from mi_decoder.norms import RMSNorm
from mi_decoder.rope_config import rope_of_kind, rotary
from mi_decoder.translation import decoder, gated_mlp, heads, only
from mi_decoder.windows import alternating_windows

__all__ = ["GEMMA3_INERT", "gemma3_decoder"]

GEMMA3_INERT: Mapping[str, str] = {
    "hidden_act": "a spelling that the reference does not read",
    "_sliding_window_pattern": "layer_types, in short",
    "attn_logit_softcapping": "the reference does not cap these models' scores",
}
"""Keys of the text config that change nothing."""


def gemma3_decoder(config: Config) -> Decoder:
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
    return decoder(config, layer, norm, full.scaling.reach(n_ctx), **outside)
