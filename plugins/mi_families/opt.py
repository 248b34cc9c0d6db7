"""OPT, Galactica, and everything else that ships as ``model_type: opt``.

Traits: layer norms, learned positions whose table starts at row two, a plain MLP, biases; OPT-350m has norms on the
stream itself and projects its embeddings.
Source: Zhang et al. 2022, arXiv:2205.01068; transformers 5.24, models/opt.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import MLP, Attention, Layer, LayerNorm, LearnedPositions, NoGain, PostNormLayer, WideGain
from mi_decoder.activations import ACTIVATIONS
from mi_decoder.examples import TINY
from mi_decoder.fairseq import FAIRSEQ_LAYER
from mi_decoder.translation import blueprint, decoder, heads, module_names

NAMES = {
    **module_names("model.decoder.layers.*", FAIRSEQ_LAYER),
    "embed": "model.decoder.embed_tokens",
    "embed_proj": "model.decoder.project_in",
    "pos_embed": "model.decoder.embed_positions",
    "ln_final": "model.decoder.final_layer_norm",
    "unembed_proj": "model.decoder.project_out",
    "unembed": "lm_head",
}
BEHIND = {"ln1_post": "self_attn_layer_norm", "ln2_post": "final_layer_norm"}
NAMES |= module_names("model.decoder.layers.*", BEHIND)


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers; positions are counted on the mask, as the reference does."""
    n_heads, _, d_head = heads(config)
    width, before = config.size("word_embed_proj_dim", default=None), config.flag("do_layer_norm_before", default=True)
    bias, learned = config.flag("enable_bias", default=True), config.flag("layer_norm_elementwise_affine", default=True)
    activation = ACTIVATIONS[config.choice("activation_function", ACTIVATIONS, default="relu")]
    norm = LayerNorm(1e-5, WideGain() if learned else NoGain(), bias=learned)
    mixer = Attention(n_heads, n_heads, d_head, bias=bias, out_bias=bias)
    mlp = MLP(config.size("ffn_dim"), activation, bias=bias)
    layer = Layer(mixer, mlp, ln1=norm, ln2=norm) if before else PostNormLayer(mixer, mlp, norm, norm)
    n_ctx = config.size("max_position_embeddings", default=2048)
    removed = config.flag("_remove_final_layer_norm", default=False)
    last = norm if before and not removed else None
    d_embed = None if width == config.size("hidden_size") else width
    model = decoder(config, layer, last, n_ctx, positions=LearnedPositions(n_ctx, offset=2), d_embed=d_embed)
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=True), names=NAMES)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: as published; without biases and gains; OPT-350m; a projection behind the last norm."""
    tiny = {key: TINY[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")}
    tiny |= {"model_type": "opt", "ffn_dim": 48, "max_position_embeddings": 64, "word_embed_proj_dim": 32}
    return (
        tiny,
        tiny
        | {"enable_bias": False, "layer_norm_elementwise_affine": False, "activation_function": "gelu"}
        | {"tie_word_embeddings": False},
        tiny | {"do_layer_norm_before": False, "word_embed_proj_dim": 20},
        tiny | {"word_embed_proj_dim": 20, "num_hidden_layers": 2},
    )
