"""MPT (1B, 7B and 30B), and everything else that ships as ``model_type: mpt``.

Traits: no position embedding, but scores that fall with the distance; no biases at all; perhaps clipped heads.
Source: MosaicML 2023, Introducing MPT-7B; transformers 5.24, models/mpt.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch.nn.functional import gelu

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.hookspecs import hookimpl
from mi_decoder import MLP, Attention, Layer, LayerNorm
from mi_decoder.alibi import Alibi, geometric_slopes
from mi_decoder.decoder import Decoder
from mi_decoder.fused import side_by_side
from mi_decoder.translation import Source, blueprint, fused_names, module_names, only

LAYER = "transformer.blocks.*"
MODULES = {"ln1": "norm_1", "ln2": "norm_2", "mixer.o": "attn.out_proj"}
MODULES |= {"channel.in": "ffn.up_proj", "channel.out": "ffn.down_proj"}
OUTSIDE: Mapping[str, Source] = {
    "embed": "transformer.wte",
    "ln_final": "transformer.norm_f",
    "unembed": "lm_head",
}
IN_ATTENTION = "attn_impl attn_pdrop attn_type attn_uses_sequence_id prefix_lm"
NOTES = "emb_pdrop resid_pdrop embedding_fraction init_device norm_type verbose init_config learned_pos_emb fc_type"
INERT = dict.fromkeys(
    (*NOTES.split(), *(f"attn_config.{key}" for key in IN_ATTENTION.split())),
    "for training, or not read by the reference",
)


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    d_model, n_heads = config.size("d_model"), config.size("n_heads")
    if d_model % n_heads:
        raise BadConfig(
            f"{config.where}: 'n_heads' is {n_heads!r}: it must divide 'd_model' ({d_model!r}).", path=config.where
        )
    inner = config.child("attn_config", {})
    # the reference ignores these: it would compute something else than a config that asks for it
    for where, key, wanted in (
        *((inner, "alibi", True), (inner, "alibi_bias_max", 8), (inner, "qk_ln", False)),
        *((config, "logit_scale", None), (config, "expansion_ratio", 4), (config, "no_bias", True)),
    ):
        only(where, key, wanted)
    positions, clip = Alibi(geometric_slopes(n_heads), "query"), inner.number("clip_qkv", default=None)
    scale = inner.number("softmax_scale", default=None)
    norm = LayerNorm(config.number("layer_norm_epsilon", default=1e-5, at_least=0.0), bias=False)
    mixer = Attention(n_heads, n_heads, d_model // n_heads, positions, scale=scale, clip=clip or None)
    layer = Layer(mixer, MLP(4 * d_model, gelu, bias=False), ln1=norm, ln2=norm)
    config.size("max_seq_len", default=None)  # positions are distances: there is no last one
    model = Decoder(config.size("vocab_size"), d_model, (layer,) * config.size("n_layers"), norm)
    parts = side_by_side([d_model] * 3)
    own = {**module_names(LAYER, MODULES), **OUTSIDE}
    names = fused_names("mixer", "attn.Wqkv", "qkv", parts, names=own, layer=LAYER)
    tied = config.flag("tie_word_embeddings", default=True)
    return blueprint(model, tensors, tied=tied, names=names, prefix="transformer.", inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: clipped heads and a scale; a number of heads that is no power of two."""
    tiny = {"model_type": "mpt", "vocab_size": 61, "n_layers": 2, "max_seq_len": 64}
    return (
        tiny | {"d_model": 32, "n_heads": 4, "attn_config": {"clip_qkv": 0.4, "softmax_scale": 0.5}},
        tiny | {"d_model": 36, "n_heads": 6, "layer_norm_epsilon": 1e-4, "tie_word_embeddings": False},
    )
