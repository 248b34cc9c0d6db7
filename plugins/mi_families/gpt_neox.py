"""GPT-NeoX, Pythia, Dolly 2, RedPajama, and everything else that ships as ``model_type: gpt_neox``.

Traits: layer norms, both parts of a layer side by side with a norm each, rotary positions over a part of each head.
Source: Black et al. 2022, arXiv:2204.06745; Biderman et al. 2023, arXiv:2304.01373; transformers 5.24, models/gpt_neox.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Layer, LayerNorm, ParallelLayer
from mi_decoder.examples import TINY
from mi_decoder.neox import NEOX_DROPPED, neox_names
from mi_decoder.rope_config import rotary
from mi_decoder.translation import blueprint, decoder, heads, plain_mlp


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers, parallel or in sequence."""
    n_heads, _, d_head = heads(config)
    n_ctx = config.size("max_position_embeddings", default=2048)
    positions = rotary(config, d_head, n_ctx, theta_key="rotary_emb_base", part=0.25, part_key="rotary_pct")
    bias = config.flag("attention_bias", default=True)
    norm = LayerNorm(config.number("layer_norm_eps", default=1e-5, at_least=0.0))
    kind = ParallelLayer if config.flag("use_parallel_residual", default=True) else Layer
    layer = kind(
        ln1=norm,
        mixer=Attention(n_heads, n_heads, d_head, positions, bias=bias, out_bias=bias),
        ln2=norm,
        channel=plain_mlp(config),
    )
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    names = neox_names("gpt_neox", n_heads, d_head)
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=names, prefix="gpt_neox.", dropped=NEOX_DROPPED)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: parallel and in sequence, in both spellings."""
    tiny = {key: value for key, value in TINY.items() if key != "num_key_value_heads"} | {"model_type": "gpt_neox"}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e3, "partial_rotary_factor": 0.5}
    return (
        tiny | {"rotary_pct": 0.5, "rotary_emb_base": 5000},
        tiny
        | {"use_parallel_residual": False, "attention_bias": False, "tie_word_embeddings": True}
        | {"rope_parameters": linear, "hidden_act": "gelu_new", "layer_norm_eps": 1e-4},
    )
