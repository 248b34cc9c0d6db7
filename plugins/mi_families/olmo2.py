"""OLMo 2, and everything else that ships as ``model_type: olmo2``.

Traits: norms behind both parts and none before them, norms over all queries and over all keys of a position.
Source: OLMo Team 2024, arXiv:2501.00656; transformers 5.24, models/olmo2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, HeadNorm, Layer, RMSNorm, WideGain
from mi_decoder.examples import TINY
from mi_decoder.rope_config import rotary
from mi_decoder.translation import BEHIND_NAMES, blueprint, decoder, gated_mlp, heads


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    n_heads, n_kv_heads, d_head = heads(config)
    n_ctx = config.size("max_position_embeddings", default=2048)
    positions = rotary(config, d_head, n_ctx, wide=True)
    bias = config.flag("attention_bias", default=False)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-5, at_least=0.0), WideGain())
    values: dict[str, Any] = {"bias": bias, "out_bias": bias, "qk_norm": HeadNorm(norm, "together")}
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, **values)
    layer = Layer(mixer, gated_mlp(config), ln1_post=norm, ln2_post=norm)
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False), names=BEHIND_NAMES)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: biases and a scaling; the older spelling."""
    tiny = {"model_type": "olmo2", **TINY}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    return (
        tiny | {"attention_bias": True, "rope_parameters": linear},
        tiny | {"rope_theta": 1e3, "rms_norm_eps": 1e-4, "hidden_act": "gelu", "tie_word_embeddings": True},
    )
