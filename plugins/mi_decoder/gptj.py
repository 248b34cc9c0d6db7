"""GPT-J's decoder, whose matrices CodeGen stores in another way.

Source: Wang and Komatsuzaki 2021, github.com/kingoflolz/mesh-transformer-jax; transformers 5.24, models/gptj.
"""

from __future__ import annotations

from collections.abc import Mapping

from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_decoder.activations import ACTIVATIONS
from mi_decoder.attention import Attention
from mi_decoder.decoder import Decoder
from mi_decoder.gpt import gpt_names, gpt_sizes
from mi_decoder.layers import ParallelLayer
from mi_decoder.mlp import MLP
from mi_decoder.norms import LayerNorm
from mi_decoder.rotary import Rotary
from mi_decoder.translation import Source, module_names

__all__ = ["GPTJ_DROPPED", "GPTJ_INERT", "GPTJ_NAMES", "gptj_decoder"]

GPTJ_INERT: Mapping[str, str] = dict.fromkeys(
    ("rotary", "scale_attn_weights", "n_ctx"), "a spelling that the reference does not read"
)
GPTJ_DROPPED: Mapping[str, str] = {
    "*.attn.bias": "the causal mask",
    "*.attn.causal_mask": "the causal mask",
    "*.attn.masked_bias": "the number that masked scores had",
}
LAYER = {"mixer.o": "attn.out_proj", "channel.in": "mlp.fc_in", "channel.out": "mlp.fc_out"}
GPTJ_NAMES: Mapping[str, Source] = {**gpt_names(), **module_names("transformer.h.*", LAYER)}
"""Our modules -> the checkpoint's, but for queries, keys and values."""


def gptj_decoder(config: Config) -> Decoder:
    """A decoder of equal layers.

    Raises:
        BadConfig: more dimensions turn than a head has, or an odd number.
    """
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
    return Decoder(config.size("vocab_size"), sizes.d_model, layers, norm, sizes.n_ctx, unembed_bias=True)
