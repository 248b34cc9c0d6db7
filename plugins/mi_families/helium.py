"""Helium 1, and everything else that ships as ``model_type: helium``.

Traits: LLaMA with interleaved rotary positions.
Source: Kyutai 2025, kyutai.org/2025/01/13/helium.html; transformers 5.24, models/helium.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Layer, RMSNorm, WideGain
from mi_decoder.examples import TINY
from mi_decoder.rope_config import rotary
from mi_decoder.translation import blueprint, decoder, gated_mlp, heads


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=20, d_head=128)
    n_ctx = config.size("max_position_embeddings", default=4096)
    positions = rotary(config, d_head, n_ctx, theta=1e5, interleaved=True)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-8, at_least=0.0), WideGain())
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, bias=config.flag("attention_bias", default=False))
    mlp = gated_mlp(config, bias=config.flag("mlp_bias", default=False))
    model = decoder(config, Layer(mixer, mlp, ln1=norm, ln2=norm), norm, positions.scaling.reach(n_ctx))
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False))


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: biases and a scaling; the older spelling."""
    tiny = {"model_type": "helium", **TINY, "head_dim": 8}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    return (
        tiny | {"attention_bias": True, "mlp_bias": True, "rope_parameters": linear},
        tiny | {"rope_theta": 1e3, "rms_norm_eps": 1e-5, "hidden_act": "gelu", "tie_word_embeddings": True},
    )
