"""Gemma 2's decoder, which VaultGemma has with fewer norms.

Source: Gemma Team 2024, arXiv:2408.00118; transformers 5.24, models/gemma2 and models/vaultgemma.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mi_core.config import Config
from mi_decoder.attention import Attention
from mi_decoder.decoder import Decoder
from mi_decoder.gains import OnePlusGain
from mi_decoder.layers import Layer
from mi_decoder.mlp import GatedMLP
from mi_decoder.norms import RMSNorm
from mi_decoder.rope_config import rotary
from mi_decoder.translation import decoder, gated_mlp, heads, or_none
from mi_decoder.windows import layer_windows

__all__ = ["gemma2_decoder"]


def gemma2_decoder(config: Config, layer: Callable[[Attention, GatedMLP, RMSNorm], Layer]) -> Decoder:
    """A decoder whose layers differ in their window only; ``layer`` puts the norm where the family has it.

    A cap that is null is none.
    """
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=4, d_head=256)
    n_ctx = config.size("max_position_embeddings", default=8192)
    positions = rotary(config, d_head, n_ctx)
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

    def made(index: int) -> Layer:
        return layer(Attention(n_heads, n_kv_heads, d_head, positions, window=windows[index], **values), mlp, norm)

    outside = {"embed_scale": config.size("hidden_size") ** 0.5, "logit_softcap": logit_cap}
    return decoder(config, made, norm, positions.scaling.reach(n_ctx), **outside)
