"""What checkpoints in GPT-NeoX's spelling call their modules.

Source: Black et al. 2022, arXiv:2204.06745; transformers 5.24, models/gpt_neox and models/gpt_neox_japanese.
"""

from __future__ import annotations

from collections.abc import Mapping

from mi_decoder.fused import of_each_head
from mi_decoder.translation import Source, fused_names, module_names

__all__ = ["NEOX_DROPPED", "neox_names"]

LAYER = {
    "ln1": "input_layernorm",
    "mixer.o": "attention.dense",
    "ln2": "post_attention_layernorm",
    "channel.in": "mlp.dense_h_to_4h",
    "channel.out": "mlp.dense_4h_to_h",
}
NEOX_DROPPED: Mapping[str, str] = {
    "*.attention.bias": "the causal mask",
    "*.attention.masked_bias": "the number that masked scores had",
    "*rotary_emb.inv_freq": "rotary frequencies are computed from the config",
}


def neox_names(stem: str, n_heads: int, d_head: int) -> Mapping[str, Source]:
    """Our modules -> the checkpoint's, under ``stem``; queries, keys and values of each head lie behind each other."""
    outside = {"embed": f"{stem}.embed_in", "ln_final": f"{stem}.final_layer_norm", "unembed": "embed_out"}
    layer, parts = f"{stem}.layers.*", of_each_head(n_heads, d_head)
    names = {**module_names(layer, LAYER), **outside}
    return fused_names("mixer", "attention.query_key_value", "qkv", parts, names=names, layer=layer)
