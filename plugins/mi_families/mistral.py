"""Mistral 7B, Mistral Nemo, Mistral Small, Zephyr, and everything else that ships as ``model_type: mistral``.

Traits: LLaMA with a sliding window on every layer, where the config gives one.
Source: Jiang et al. 2023, arXiv:2310.06825; transformers 5.24, models/mistral.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Layer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.rope_config import rotary
from mi_decoder.translation import blueprint, decoder, gated_mlp, heads, or_none


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers; a window that is null is none, one that is absent is 4096."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=8)
    n_ctx = config.size("max_position_embeddings", default=131072)
    positions = rotary(config, d_head, n_ctx)
    window = config.size("sliding_window", default=or_none(config, "sliding_window", 4096))
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0))
    layer = Layer(
        ln1=norm,
        mixer=Attention(n_heads, n_kv_heads, d_head, positions, window=window),
        ln2=norm,
        channel=gated_mlp(config),
    )
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False))


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: a window in the newer spelling, none and its own head width in the older one."""
    tiny = {"model_type": "mistral", **TINY}
    return (
        tiny | {"sliding_window": 4, "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0}},
        tiny
        | {"sliding_window": None, "head_dim": 12, "rms_norm_eps": 1e-5, "hidden_act": "gelu"}
        | {"rope_theta": 5000.0, "rope_scaling": {"type": "linear", "factor": 2.0}, "tie_word_embeddings": True},
    )
