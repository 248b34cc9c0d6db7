"""XGLM, and everything else that ships as ``model_type: xglm``.

Traits: layer norms, computed sinusoidal positions, scaled embeddings, a plain MLP.
Source: Lin et al. 2021, arXiv:2112.10668; transformers 5.24, models/xglm.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.hookspecs import hookimpl
from mi_decoder import MLP, Attention, Decoder, Layer, LayerNorm
from mi_decoder.activations import ACTIVATIONS
from mi_decoder.fairseq import FAIRSEQ_LAYER
from mi_decoder.sinusoids import Sinusoids
from mi_decoder.translation import blueprint, module_names

NAMES = {
    **module_names("model.layers.*", FAIRSEQ_LAYER),
    "embed": "model.embed_tokens",
    "ln_final": "model.layer_norm",
    "unembed": "lm_head",
}
DROPPED = {"model.embed_positions.weights": "positions are computed"}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    d_model, n_heads = config.size("d_model"), config.size("attention_heads")
    if d_model % n_heads:
        raise BadConfig(
            f"{config.where}: 'attention_heads' is {n_heads!r}: it must divide 'd_model' ({d_model!r}).",
            path=config.where,
        )
    activation = ACTIVATIONS[config.choice("activation_function", ACTIVATIONS, default="gelu")]
    norm, mlp = LayerNorm(1e-5), MLP(config.size("ffn_dim"), activation)
    layer = Layer(Attention(n_heads, n_heads, d_model // n_heads, bias=True, out_bias=True), mlp, ln1=norm, ln2=norm)
    model = Decoder(
        d_vocab=config.size("vocab_size"),
        d_model=d_model,
        layers=(layer,) * config.size("num_layers"),
        ln_final=norm,
        n_ctx=config.size("max_position_embeddings", default=2048),
        embed_scale=d_model**0.5 if config.flag("scale_embedding", default=True) else 1.0,
        positions=Sinusoids(offset=2),
    )
    tied = config.flag("tie_word_embeddings", default=True)
    return blueprint(model, tensors, tied=tied, names=NAMES, dropped=DROPPED)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: as published; without a scale, with an unembedding of its own."""
    tiny = {"model_type": "xglm", "vocab_size": 61, "d_model": 32, "attention_heads": 4, "num_layers": 2, "ffn_dim": 48}
    return (
        tiny | {"max_position_embeddings": 64},
        tiny | {"scale_embedding": False, "activation_function": "relu", "tie_word_embeddings": False},
    )
