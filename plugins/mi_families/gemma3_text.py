"""Gemma 3's text models (270m, 1b), and everything else that ships as ``model_type: gemma3_text``.

Traits: Gemma 2 with norms of queries and keys instead of score caps; windowed layers turn by another base.
Source: Gemma Team 2025, arXiv:2503.19786; transformers 5.24, models/gemma3.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder.examples import TINY
from mi_decoder.gemma3 import GEMMA3_INERT, gemma3_decoder
from mi_decoder.translation import SANDWICH_NAMES, blueprint


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers differ in their window and in the base of their rotary positions."""
    model, tied = gemma3_decoder(config), config.flag("tie_word_embeddings", default=True)
    return blueprint(model, tensors, tied=tied, names=SANDWICH_NAMES, inert=GEMMA3_INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: everything on, a base and a scaling for each kind of layer; the older spelling."""
    tiny = {"model_type": "gemma3_text", **TINY, "head_dim": 12, "query_pre_attn_scalar": 5}
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    linear = {"rope_type": "linear", "factor": 2.0}
    rope = {"full_attention": {**linear, "rope_theta": 5e3}, "sliding_attention": {"rope_theta": 100.0}}
    return (
        tiny
        | {"sliding_window": 4, "layer_types": kinds, "rope_parameters": rope}
        | {
            "final_logit_softcapping": 2.0,
            "attn_logit_softcapping": 0.5,
            "attention_bias": True,
            "tie_word_embeddings": False,
        },
        tiny
        | {"sliding_window": 3, "sliding_window_pattern": 2, "rope_theta": 5e3, "rope_local_base_freq": 50.0}
        | {"rope_scaling": linear, "hidden_activation": "silu", "rms_norm_eps": 1e-5},
    )
