"""GPT-Neo, TinyStories, and everything else that ships as ``model_type: gpt_neo``.

Traits: GPT-2 with scores that are not scaled, a window on some layers, and matrices of their own.
Source: Black et al. 2021, doi:10.5281/zenodo.5297715; transformers 5.24, models/gpt_neo.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.hookspecs import hookimpl
from mi_decoder import MLP, Attention, Layer, LayerNorm, LearnedPositions
from mi_decoder.activations import ACTIVATIONS
from mi_decoder.decoder import Decoder
from mi_decoder.gpt import gpt_names
from mi_decoder.translation import blueprint

NAMES = {
    **gpt_names(),
    **{f"layers.*.mixer.{name}": f"transformer.h.*.attn.attention.{name}_proj" for name in "qkv"},
    "layers.*.mixer.o": "transformer.h.*.attn.attention.out_proj",
}
INERT = {"attention_layers": "attention_types, written out"}
DROPPED = {"*.attention.bias": "the causal mask", "*.attention.masked_bias": "the number that masked scores had"}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers differ in their window."""
    d_model, n_heads, n_layers = config.size("hidden_size"), config.size("num_heads"), config.size("num_layers")
    runs = config.get("attention_types") or [[["global", "local"], 12]]
    kinds = [kind for pattern, count in runs for kind in pattern * count]
    if d_model % n_heads or len(kinds) != n_layers or set(kinds) > {"global", "local"}:
        raise BadConfig(
            f"{config.where}: 'attention_types' must tell 'global' or 'local' for each of {n_layers} layers, and "
            f"'num_heads' ({n_heads!r}) must divide 'hidden_size' ({d_model!r}); got {runs!r}.",
            path=config.where,
        )
    window, n_ctx = config.size("window_size", default=256), config.size("max_position_embeddings", default=2048)
    activation = ACTIVATIONS[config.choice("activation_function", ACTIVATIONS, default="gelu_new")]
    mlp = MLP(config.size("intermediate_size", default=4 * d_model), activation)
    norm = LayerNorm(config.number("layer_norm_epsilon", default=1e-5, at_least=0.0))
    values: dict[str, Any] = {"out_bias": True, "scale": 1.0}

    def layer(kind: str) -> Layer:
        seen = window if kind == "local" else None
        mixer = Attention(n_heads, n_heads, d_model // n_heads, window=seen, **values)
        return Layer(mixer, mlp, ln1=norm, ln2=norm)

    layers = tuple(map(layer, kinds))
    model = Decoder(config.size("vocab_size"), d_model, layers, norm, n_ctx, positions=LearnedPositions(n_ctx))
    tied = config.flag("tie_word_embeddings", default=True)
    return blueprint(model, tensors, tied=tied, names=NAMES, prefix="transformer.", dropped=DROPPED, inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: short windows; everything else."""
    tiny = {"model_type": "gpt_neo", "vocab_size": 61, "hidden_size": 32, "num_heads": 4, "max_position_embeddings": 64}
    return (
        tiny | {"num_layers": 4, "attention_types": [[["global", "local"], 2]], "window_size": 4},
        tiny
        | {"num_layers": 2, "attention_types": [[["local"], 1], [["global"], 1]], "window_size": 3}
        | {"intermediate_size": 48, "activation_function": "relu", "tie_word_embeddings": False},
    )
