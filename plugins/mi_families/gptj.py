"""GPT-J, and everything else that ships as ``model_type: gptj``.

Traits: both parts of a layer side by side behind one layer norm, interleaved rotary positions over a part of each head.
Source: Wang and Komatsuzaki 2021, github.com/kingoflolz/mesh-transformer-jax; transformers 5.24, models/gptj.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.hookspecs import hookimpl
from mi_decoder import MLP, Attention, LayerNorm, ParallelLayer, Rotary
from mi_decoder.activations import ACTIVATIONS
from mi_decoder.decoder import Decoder
from mi_decoder.gpt import gpt_names, gpt_sizes
from mi_decoder.translation import blueprint, module_names

LAYER = {f"mixer.{name}": f"attn.{name}_proj" for name in "qkv"} | {"mixer.o": "attn.out_proj"}
LAYER |= {"channel.in": "mlp.fc_in", "channel.out": "mlp.fc_out"}
NAMES = {**gpt_names(), **module_names("transformer.h.*", LAYER)}
INERT = dict.fromkeys(("rotary", "scale_attn_weights", "n_ctx"), "a spelling that the reference does not read")
DROPPED = {"*.attn.bias": "the causal mask", "*.attn.masked_bias": "the number that masked scores had"}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    sizes = gpt_sizes(config, n_ctx=2048)
    n_dims = config.size("rotary_dim", default=64)
    if n_dims % 2 or n_dims > sizes.d_head:
        raise BadConfig(
            f"{config.where}: 'rotary_dim' is {n_dims!r}, it must be even and at most a head's width, {sizes.d_head}.",
            path=config.where,
        )
    activation = ACTIVATIONS[config.choice("activation_function", ACTIVATIONS, default="gelu_new")]
    norm = LayerNorm(config.number("layer_norm_epsilon", default=1e-5, at_least=0.0))
    mixer = Attention(sizes.n_heads, sizes.n_heads, sizes.d_head, Rotary(n_dims, interleaved=True))
    layers = (ParallelLayer(mixer, MLP(sizes.d_mlp, activation), ln1=norm),) * sizes.n_layers
    model = Decoder(config.size("vocab_size"), sizes.d_model, layers, norm, sizes.n_ctx, unembed_bias=True)
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=NAMES, prefix="transformer.", dropped=DROPPED, inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: a part of each head; whole heads and everything else."""
    tiny = {"model_type": "gptj", "vocab_size": 61, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
    return (
        tiny | {"rotary_dim": 4},
        tiny | {"rotary_dim": 8, "n_inner": 48, "activation_function": "relu", "layer_norm_epsilon": 1e-4},
    )
