"""EXAONE 4, and everything else that ships as ``model_type: exaone4``.

Traits: norms behind both parts and none before them, normed heads; beside windows, full layers have no positions.
Source: LG AI Research 2025, arXiv:2507.11407; transformers 5.24, models/exaone4.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, HeadNorm, Layer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.rope_config import rotary
from mi_decoder.translation import BEHIND_NAMES, blueprint, decoder, gated_mlp, heads, or_none
from mi_decoder.windows import layer_windows


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers have a window and positions, or neither; without windows, all have positions."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=32)
    n_ctx = config.size("max_position_embeddings", default=2048)
    positions = rotary(config, d_head, n_ctx)
    window = config.size("sliding_window", default=or_none(config, "sliding_window", 4096))
    pattern = config.get("sliding_window_pattern", 4)
    period = pattern if isinstance(pattern, int) and pattern > 0 else len(pattern or "LLLG")  # a word in some files
    windows = layer_windows(config, window, lambda index: window is not None and (index + 1) % period != 0)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-5, at_least=0.0))
    mlp = gated_mlp(config)

    def layer(index: int) -> Layer:
        seen = windows[index]
        place = positions if window is None or seen else None
        mixer = Attention(n_heads, n_kv_heads, d_head, place, window=seen, qk_norm=HeadNorm(norm))
        return Layer(mixer, mlp, ln1_post=norm, ln2_post=norm)

    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False), names=BEHIND_NAMES)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: windows by list and by pattern, and none, in both spellings."""
    tiny = {"model_type": "exaone4", **TINY}
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    return (
        tiny | {"sliding_window": 4, "layer_types": kinds, "rope_parameters": linear, "head_dim": 12},
        tiny | {"sliding_window": 3, "sliding_window_pattern": 2, "rope_theta": 1e3, "rms_norm_eps": 1e-4},
        tiny
        | {"sliding_window": None, "layer_types": ["full_attention"] * 3, "rope_theta": 1e3}
        | {"tie_word_embeddings": True},
    )
