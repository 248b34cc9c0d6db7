"""StarCoder 1, SantaCoder, and everything else that ships as ``model_type: gpt_bigcode``.

Traits: GPT-2 whose heads share one key head, and matrices stored as in torch.
Source: Li et al. 2023, arXiv:2305.06161; transformers 5.24, models/gpt_bigcode.
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
from mi_decoder.fused import of_each_head, side_by_side
from mi_decoder.gpt import gpt_names, gpt_sizes
from mi_decoder.translation import blueprint, fused_names

SERVING = "inference_runner max_batch_size max_sequence_length pad_key_length pre_allocate_kv_cache"
INERT = dict.fromkeys((*SERVING.split(), "validate_runner_input"), "a setting of the serving code")
INERT |= dict.fromkeys(("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32"), "rounding in training")
INERT |= {"num_key_value_heads": "multi_query, as a number", "n_ctx": "n_positions"}
DROPPED = {"*.attn.bias": "the causal mask", "*.attn.masked_bias": "the number that masked scores had"}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    sizes = gpt_sizes(config, n_ctx=1024)
    activation = ACTIVATIONS[config.choice("activation_function", ACTIVATIONS, default="gelu_pytorch_tanh")]
    scale = None if config.flag("scale_attn_weights", default=True) else 1.0
    shared = config.flag("multi_query", default=True)
    norm = LayerNorm(config.number("layer_norm_epsilon", default=1e-5, at_least=0.0))
    n_kv_heads = 1 if shared else sizes.n_heads
    mixer = Attention(sizes.n_heads, n_kv_heads, sizes.d_head, bias=True, out_bias=True, scale=scale)
    layers = (Layer(mixer, MLP(sizes.d_mlp, activation), ln1=norm, ln2=norm),) * sizes.n_layers
    places = LearnedPositions(sizes.n_ctx)
    model = Decoder(config.size("vocab_size"), sizes.d_model, layers, norm, sizes.n_ctx, positions=places)
    widths = [sizes.d_model, sizes.d_head, sizes.d_head]
    parts = side_by_side(widths) if shared else of_each_head(sizes.n_heads, sizes.d_head)
    names = fused_names("mixer", "attn.c_attn", "qkv", parts, names=gpt_names(), layer="transformer.h.*")
    tied = config.flag("tie_word_embeddings", default=True)
    return blueprint(model, tensors, tied=tied, names=names, prefix="transformer.", dropped=DROPPED, inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: one key head, and as many as query heads."""
    tiny = {"model_type": "gpt_bigcode", "vocab_size": 61, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
    return (
        tiny,
        tiny
        | {"multi_query": False, "n_inner": 48, "activation_function": "relu", "layer_norm_epsilon": 1e-4}
        | {"tie_word_embeddings": False},
    )
