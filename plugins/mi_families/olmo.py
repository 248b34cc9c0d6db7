"""OLMo 1, and everything else that ships as ``model_type: olmo``.

Traits: LLaMA with layer norms that have neither gain nor bias, and heads cut off at a largest value.
Source: Groeneveld et al. 2024, arXiv:2402.00838; transformers 5.24, models/olmo.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Layer, LayerNorm, NoGain
from mi_decoder.examples import TINY
from mi_decoder.rope_config import rotary
from mi_decoder.translation import blueprint, decoder, gated_mlp, heads


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    n_heads, n_kv_heads, d_head = heads(config)
    n_ctx = config.size("max_position_embeddings", default=2048)
    positions = rotary(config, d_head, n_ctx, wide=True)
    bias, clip = config.flag("attention_bias", default=False), config.number("clip_qkv", default=None, at_least=1e-9)
    norm = LayerNorm(1e-5, NoGain(), bias=False)
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, bias=bias, out_bias=bias, clip=clip)
    layer = Layer(mixer, gated_mlp(config), ln1=norm, ln2=norm)
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False))


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: a clip that bites, biases, a scaling; the older spelling."""
    tiny = {"model_type": "olmo", **TINY, "num_hidden_layers": 2}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    return (
        tiny | {"clip_qkv": 0.5, "attention_bias": True, "rope_parameters": linear},
        tiny | {"rope_theta": 1e3, "hidden_act": "gelu", "tie_word_embeddings": True},
    )
