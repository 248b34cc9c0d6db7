"""RWKV-4 ("Dove"): pile, raven and world models, in the Hugging Face layout and in the original one.

Traits: no attention, for each channel a mean of values weighted by fading keys, gated channel-mix, layer norms with
biases, a norm on the embedding. The stream is not rescaled.
Source: Peng et al. 2023, arXiv:2305.13048; transformers 5.24, models/rwkv; the package rwkv 0.8.32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_core.tensors import TensorIndex
from mi_decoder import Decoder, LayerNorm
from mi_decoder.stateful import StatefulLayer
from mi_recurrent import ChannelMix, RWKV4TimeMix
from mi_recurrent.checkpoints import refuse_other_versions
from mi_recurrent.huggingface import blueprint_of, width_of
from mi_recurrent.layouts import HUGGING_FACE, ORIGINAL, is_original
from mi_recurrent.original import sizes_of

__all__ = ["mi_config", "mi_family", "mi_family_examples"]

VERSION = "RWKV-4"


@hookimpl
def mi_family(config: Config, tensors: TensorIndex | None) -> Blueprint:
    """A decoder of equal recurrent layers."""
    refuse_other_versions(tensors, VERSION, config)
    names = ORIGINAL if is_original(tensors) else HUGGING_FACE
    d_model = config.size("hidden_size")
    norm = LayerNorm(config.number("layer_norm_epsilon", default=1e-5, at_least=0.0))

    def layer(index: int) -> StatefulLayer:
        d_mlp = width_of(config, tensors, names, index, 4 * d_model)
        return StatefulLayer(RWKV4TimeMix(), ChannelMix(d_mlp, gated=True), norm, norm)

    layers = tuple(layer(index) for index in range(config.size("num_hidden_layers")))
    # the reference builds its last norm without the config's eps
    model = Decoder(config.size("vocab_size"), d_model, layers, ln_final=LayerNorm(1e-5), embed_norm=norm)
    return blueprint_of(model.build, config, tensors, names)


@hookimpl
def mi_config(tensors: TensorIndex) -> Mapping[str, Any] | None:
    """Of an original file: all sizes are in its tensors."""
    sizes = sizes_of(tensors, VERSION)
    return None if sizes is None else {"model_type": "rwkv", **sizes}


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: widths from the width of the model, and given; tied."""
    tiny = {
        "model_type": "rwkv",
        "vocab_size": 61,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "layer_norm_epsilon": 1e-5,
        "rescale_every": 6,
    }
    return (tiny, tiny | {"intermediate_size": 48, "attention_hidden_size": 32, "tie_word_embeddings": True})
