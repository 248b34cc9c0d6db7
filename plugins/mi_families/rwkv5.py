"""RWKV-5.2 ("Eagle"): world models, in the Hugging Face layout and in the original one.

Traits: no attention, a state per head with a learned decay, an output gate, a norm over each head, gated channel-mix.
Source: Peng et al. 2024, arXiv:2404.05892; the code that RWKV/rwkv-5-world models come with;
the package rwkv 0.8.32.
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
from mi_recurrent import ChannelMix, RWKV5TimeMix
from mi_recurrent.checkpoints import refuse_other_versions
from mi_recurrent.huggingface import blueprint_of, head_eps, heads_of, width_of
from mi_recurrent.layouts import HUGGING_FACE, ORIGINAL, is_original
from mi_recurrent.original import head_size_of, sizes_of

__all__ = ["mi_config", "mi_family", "mi_family_examples"]

VERSION = "RWKV-5.2"


@hookimpl
def mi_family(config: Config, tensors: TensorIndex | None) -> Blueprint:
    """A decoder of equal recurrent layers."""
    refuse_other_versions(tensors, VERSION, config)
    names = ORIGINAL if is_original(tensors) else HUGGING_FACE
    d_model, eps = config.size("hidden_size"), head_eps(config)
    norm = LayerNorm(config.number("layer_norm_epsilon", default=1e-5, at_least=0.0))

    def layer(index: int) -> StatefulLayer:
        mixer = RWKV5TimeMix(heads_of(config, tensors, names, index), eps)
        d_mlp = width_of(config, tensors, names, index, int(3.5 * d_model) // 32 * 32)
        return StatefulLayer(mixer, ChannelMix(d_mlp, gated=True), norm, norm)

    layers = tuple(layer(index) for index in range(config.size("num_hidden_layers")))
    # the reference builds its last norm without the config's eps
    model = Decoder(config.size("vocab_size"), d_model, layers, ln_final=LayerNorm(1e-5), embed_norm=norm)
    return blueprint_of(model.build, config, tensors, names)


@hookimpl
def mi_config(tensors: TensorIndex) -> Mapping[str, Any] | None:
    """Of an original file: all sizes are in its tensors."""
    sizes = sizes_of(tensors, VERSION)
    if sizes is None:
        return None
    return {"model_type": "rwkv5", **sizes, "head_size": head_size_of(tensors, "time_faaaa")}


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: several heads and one, the head's divisor, tied."""
    tiny = {
        "model_type": "rwkv5",
        "vocab_size": 61,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "head_size": 8,
        "layer_norm_epsilon": 1e-5,
    }
    return (tiny, tiny | {"head_size": 32, "head_size_divisor": 1, "tie_word_embeddings": True})
