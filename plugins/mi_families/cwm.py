"""Code World Model, and everything else that ships as ``model_type: cwm``.

Traits: LLaMA 3 with a window on three of four layers.
Source: FAIR CodeGen Team 2025, arXiv:2510.02387; transformers 5.24, models/cwm.
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
from mi_decoder.windows import layer_windows

ABSENT = {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ABSENT |= {"original_max_position_embeddings": 8192, "rope_theta": 1e6}
"""What the reference takes for rotary positions that a config leaves out. Source: transformers 5.24, CwmConfig."""


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers differ in their window only; without a list of kinds, every fourth is full."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=8, d_head=128)
    n_ctx = config.size("max_position_embeddings", default=131072)
    spelled = config.get("rope_parameters") or config.get("rope_scaling")
    positions = rotary(config, d_head, n_ctx, theta=1e6, rope=None if spelled else Config(ABSENT, where=config.where))
    window = config.size("sliding_window", default=or_none(config, "sliding_window", 8192), at_least=0) or None
    windows = layer_windows(config, window, lambda index: index % 4 != 0)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-5, at_least=0.0))
    mlp = gated_mlp(config, bias=config.flag("mlp_bias", default=False))

    def layer(index: int) -> Layer:
        mixer = Attention(n_heads, n_kv_heads, d_head, positions, window=windows[index])
        return Layer(mixer, mlp, ln1=norm, ln2=norm)

    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False))


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: as published, with short windows; kinds by list and biases, in the older spelling."""
    tiny = {"model_type": "cwm", **TINY, "num_hidden_layers": 2, "head_dim": 12, "bos_token_id": 1}
    return (
        tiny | {"sliding_window": 4},
        tiny
        | {"sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"], "mlp_bias": True}
        | {"rope_theta": 1e3, "rope_scaling": {"type": "linear", "factor": 2.0}, "rms_norm_eps": 1e-6}
        | {"tie_word_embeddings": True},
    )
