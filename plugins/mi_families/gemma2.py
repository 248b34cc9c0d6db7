"""Gemma 2, Gemma Scope's models, and everything else that ships as ``model_type: gemma2``.

Traits: Gemma with norms before and behind both parts, soft-caps on scores and logits, a window on every other layer.
Source: Gemma Team 2024, arXiv:2408.00118; transformers 5.24, models/gemma2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, GatedMLP, Layer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.gemma2 import gemma2_decoder
from mi_decoder.translation import SANDWICH_NAMES, blueprint, only

__all__ = ["layer", "mi_family", "mi_family_examples"]

INERT = {"hidden_act": "a spelling that the reference does not read"}


def layer(mixer: Attention, mlp: GatedMLP, norm: RMSNorm) -> Layer:
    """With norms before and behind both parts."""
    return Layer(mixer, mlp, ln1=norm, ln1_post=norm, ln2=norm, ln2_post=norm)


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers differ in their window only."""
    only(config, "use_bidirectional_attention", False)
    tied = config.flag("tie_word_embeddings", default=True)
    return blueprint(gemma2_decoder(config, layer), tensors, tied=tied, names=SANDWICH_NAMES, inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: caps that bite and short windows; none of them, in the older spelling."""
    tiny = {"model_type": "gemma2", **TINY, "head_dim": 12}
    caps = {"attn_logit_softcapping": 0.5, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 5}
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    return (
        tiny | caps | {"sliding_window": 4, "attention_bias": True, "rope_parameters": {"rope_theta": 1e3}},
        tiny
        | {"attn_logit_softcapping": None, "final_logit_softcapping": None, "rope_theta": 5e3, "sliding_window": 3}
        | {"hidden_activation": "silu", "rms_norm_eps": 1e-5, "layer_types": kinds, "tie_word_embeddings": False},
    )
