"""GPT-2, DistilGPT-2, GPT-Sw3, and everything else that ships as ``model_type: gpt2``.

Traits: layer norms, learned positions, matrices stored ``[in, out]`` and fused, a plain MLP.
Source: Radford et al. 2019; transformers 5.24, models/gpt2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import MLP, Attention, Layer, LayerNorm, LearnedPositions
from mi_decoder.activations import ACTIVATIONS
from mi_decoder.decoder import Decoder
from mi_decoder.fused import side_by_side, transposed
from mi_decoder.gpt import gpt_names, gpt_sizes
from mi_decoder.translation import blueprint, fused_names

INERT = {
    "n_ctx": "an older name of n_positions that the reference does not read",
    "_num_labels": "for other tasks",
    "reorder_and_upcast_attn": "scores in float32, for training in lower precision",
}
DROPPED = {"*.attn.bias": "the causal mask", "*.attn.masked_bias": "the number that masked scores had"}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers differ at most in their scale."""
    sizes = gpt_sizes(config, n_ctx=1024)
    activation = ACTIVATIONS[config.choice("activation_function", ACTIVATIONS, default="gelu_new")]
    scaled = config.flag("scale_attn_weights", default=True)
    by_layer = config.flag("scale_attn_by_inverse_layer_idx", default=False)
    norm = LayerNorm(config.number("layer_norm_epsilon", default=1e-5, at_least=0.0))

    def layer(index: int) -> Layer:
        scale = (sizes.d_head**-0.5 if scaled else 1.0) / (index + 1 if by_layer else 1)
        mixer = Attention(sizes.n_heads, sizes.n_heads, sizes.d_head, bias=True, out_bias=True, scale=scale)
        return Layer(ln1=norm, mixer=mixer, ln2=norm, channel=MLP(sizes.d_mlp, activation))

    model = Decoder(
        d_vocab=config.size("vocab_size"),
        d_model=sizes.d_model,
        layers=tuple(layer(index) for index in range(sizes.n_layers)),
        ln_final=norm,
        n_ctx=sizes.n_ctx,
        positions=LearnedPositions(sizes.n_ctx),
    )
    parts = side_by_side([sizes.d_model] * 3, stored=transposed)
    names = fused_names("mixer", "attn.c_attn", "qkv", parts, names=gpt_names(transposed), layer="transformer.h.*")
    tied = config.flag("tie_word_embeddings", default=True)
    return blueprint(model, tensors, tied=tied, names=names, prefix="transformer.", dropped=DROPPED, inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: as published, and everything else."""
    tiny = {"model_type": "gpt2", "vocab_size": 61, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
    return (
        tiny | {"n_inner": 48, "scale_attn_by_inverse_layer_idx": True, "tie_word_embeddings": False},
        tiny | {"activation_function": "relu", "layer_norm_epsilon": 1e-4, "n_ctx": 64},
        tiny | {"scale_attn_weights": False, "activation_function": "gelu"},
    )
