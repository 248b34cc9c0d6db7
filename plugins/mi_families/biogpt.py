"""BioGPT, and everything else that ships as ``model_type: biogpt``.

Traits: layer norms, learned positions whose table starts at row two, scaled embeddings, a plain MLP.
Source: Luo et al. 2022, arXiv:2210.10341; transformers 5.24, models/biogpt.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Layer, LayerNorm, LearnedPositions
from mi_decoder.examples import TINY
from mi_decoder.fairseq import FAIRSEQ_LAYER
from mi_decoder.translation import blueprint, decoder, heads, module_names, plain_mlp

NAMES = {
    **module_names("biogpt.layers.*", FAIRSEQ_LAYER),
    "embed": "biogpt.embed_tokens",
    "pos_embed": "biogpt.embed_positions",
    "ln_final": "biogpt.layer_norm",
    "unembed": "output_projection",
}
INERT = {"layer_norm_eps": "the reference does not read it: its norms have 1e-5"}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    n_heads, _, d_head = heads(config)
    n_ctx = config.size("max_position_embeddings", default=1024)
    mixer = Attention(n_heads, n_heads, d_head, bias=True, out_bias=True)
    norm = LayerNorm(1e-5)
    scale = config.size("hidden_size") ** 0.5 if config.flag("scale_embedding", default=True) else 1.0
    layer = Layer(mixer, plain_mlp(config), ln1=norm, ln2=norm)
    model = decoder(config, layer, norm, n_ctx, embed_scale=scale, positions=LearnedPositions(n_ctx, offset=2))
    tied = config.flag("tie_word_embeddings", default=True)
    return blueprint(model, tensors, tied=tied, names=NAMES, prefix="biogpt.", inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: as published; without a scale, with an unembedding of its own."""
    tiny = {"model_type": "biogpt", **TINY, "num_hidden_layers": 2}
    del tiny["num_key_value_heads"]
    return (
        tiny | {"layer_norm_eps": 1e-12},
        tiny | {"scale_embedding": False, "hidden_act": "relu", "tie_word_embeddings": False},
    )
