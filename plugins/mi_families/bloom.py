"""BLOOM and BLOOMZ (560m to 176b), and everything else that ships as ``model_type: bloom``.

Traits: no position embedding, but scores that fall with the distance; a norm behind the token embedding; perhaps a
stream that goes on through the norms.
Source: BigScience 2022, arXiv:2211.05100; transformers 5.24, models/bloom.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.hookspecs import hookimpl
from mi_decoder import MLP, Attention, Layer, LayerNorm
from mi_decoder.activations import ACTIVATIONS
from mi_decoder.alibi import Alibi, geometric_slopes
from mi_decoder.decoder import Decoder
from mi_decoder.fused import of_each_head
from mi_decoder.own_residuals import NormedStreamLayer
from mi_decoder.translation import Source, blueprint, fused_names, module_names

LAYER = "transformer.h.*"
MODULES = {"ln1": "input_layernorm", "ln2": "post_attention_layernorm", "mixer.o": "self_attention.dense"}
MODULES |= {"channel.in": "mlp.dense_h_to_4h", "channel.out": "mlp.dense_4h_to_h"}
OUTSIDE: Mapping[str, Source] = {
    "embed": "transformer.word_embeddings",
    "embed_norm": "transformer.word_embeddings_layernorm",
    "ln_final": "transformer.ln_f",
    "unembed": "lm_head",
}
NOTES = "attention_softmax_in_fp32 bias_dropout_fusion masked_softmax_fusion skip_bias_add skip_bias_add_qkv n_inner"
INERT = {
    **dict.fromkeys((*NOTES.split(), "unk_token_id", "seq_length", "offset_alibi"), "not read by the reference"),
    "hidden_dropout": "dropout",
    "pretraining_tp": "how training split matrices",
    "slow_but_exact": "in which order split products are summed",
}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    d_model = config.size("hidden_size", default=config.size("n_embed", default=None))
    n_heads = config.size("n_head", default=config.size("num_attention_heads", default=None))
    if d_model is None or n_heads is None or d_model % n_heads:
        raise BadConfig(
            f"{config.where}: 'n_head' is {n_heads!r}: it must divide 'hidden_size' ({d_model!r}).", path=config.where
        )
    d_head = d_model // n_heads
    normed = config.flag("apply_residual_connection_post_layernorm", default=False)
    kind = NormedStreamLayer if normed else Layer
    norm = LayerNorm(config.number("layer_norm_epsilon", default=1e-5, at_least=0.0))
    positions = Alibi(geometric_slopes(n_heads))
    mixer = Attention(n_heads, n_heads, d_head, positions, bias=True, out_bias=True)
    n_layers = config.size("n_layer", default=config.size("num_hidden_layers", default=2))
    model = Decoder(
        d_vocab=config.size("vocab_size"),
        d_model=d_model,
        layers=(kind(mixer, MLP(4 * d_model, ACTIVATIONS["gelu_fast"]), ln1=norm, ln2=norm),) * n_layers,
        ln_final=norm,
        embed_norm=norm,
    )
    own = {**module_names(LAYER, MODULES), **OUTSIDE}
    parts = of_each_head(n_heads, d_head)
    names = fused_names("mixer", "self_attention.query_key_value", "qkv", parts, names=own, layer=LAYER)
    tied = config.flag("tie_word_embeddings", default=True)
    return blueprint(model, tensors, tied=tied, names=names, prefix="transformer.", inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: a number of heads that is no power of two; an unembedding of its own, a stream through norms."""
    tiny = {"model_type": "bloom", "vocab_size": 61, "n_layer": 2}
    return (
        tiny | {"hidden_size": 36, "n_head": 6, "layer_norm_epsilon": 1e-4},
        tiny | {"hidden_size": 32, "n_head": 4, "tie_word_embeddings": False},
        tiny | {"hidden_size": 32, "n_head": 4, "apply_residual_connection_post_layernorm": True},
    )
