"""GPT (the first), and everything else that ships as ``model_type: openai-gpt``.

Traits: norms on the stream itself and none at its end, learned positions, matrices stored ``[in, out]`` and fused.
Source: Radford et al. 2018, "Improving Language Understanding"; transformers 5.24, models/openai.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import MLP, Attention, LayerNorm, LearnedPositions, PostNormLayer
from mi_decoder.activations import ACTIVATIONS
from mi_decoder.decoder import Decoder
from mi_decoder.fused import side_by_side, transposed
from mi_decoder.gpt import gpt_names, gpt_sizes
from mi_decoder.translation import blueprint, fused_names

NAMES = {
    **gpt_names(transposed),
    "embed": "transformer.tokens_embed",
    "pos_embed": "transformer.positions_embed",
    "layers.*.ln1_post": "transformer.h.*.ln_1",
    "layers.*.ln2_post": "transformer.h.*.ln_2",
}
MEANING = {"gelu": "gelu_new", "silu": "silu", "swish": "silu", "relu": "relu"}
"""What this family's files call their activations. Source: transformers 5.24, modeling_openai.py (ACT_FNS)."""
INERT = {"n_ctx": "an older name of n_positions", "n_special": "rows of the vocabulary, counted in it"}
INERT |= {"predict_special_tokens": "for training", "_num_labels": "for other tasks"}
DROPPED = {"*.attn.bias": "the causal mask", "*position_ids": "positions, counted"}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    sizes = gpt_sizes(config, n_ctx=512)
    activation = ACTIVATIONS[MEANING[config.choice("afn", MEANING, default="gelu")]]
    norm = LayerNorm(config.number("layer_norm_epsilon", default=1e-5, at_least=0.0))
    mixer = Attention(sizes.n_heads, sizes.n_heads, sizes.d_head, bias=True, out_bias=True)
    layers = (PostNormLayer(mixer, MLP(4 * sizes.d_model, activation), norm, norm),) * sizes.n_layers
    places = LearnedPositions(sizes.n_ctx)
    model = Decoder(config.size("vocab_size"), sizes.d_model, layers, None, sizes.n_ctx, positions=places)
    parts = side_by_side([sizes.d_model] * 3, stored=transposed)
    names = fused_names("mixer", "attn.c_attn", "qkv", parts, names=NAMES, layer="transformer.h.*")
    tied = config.flag("tie_word_embeddings", default=True)
    return blueprint(model, tensors, tied=tied, names=names, prefix="transformer.", dropped=DROPPED, inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: as published; everything else."""
    tiny = {"model_type": "openai-gpt", "vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return (
        tiny,
        tiny | {"afn": "relu", "layer_norm_epsilon": 1e-4, "tie_word_embeddings": False},
    )
