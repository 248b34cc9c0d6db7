"""Granite with sliding windows, and everything else that ships as ``model_type: granite_swa``.

Traits: Granite with attention sinks; windows on all layers but each fourth; layers with rotary bases of their own, or
without positions. Source: IBM 2026, ibm.com/granite; transformers 5.24, models/granite_swa.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder.examples import TINY
from mi_decoder.granite import granite_decoder, sliding_granite_attention
from mi_decoder.translation import LLAMA_NAMES, Source, blueprint, gated_mlp

NAMES: Mapping[str, Source] = {**LLAMA_NAMES, "layers.*.mixer.sink_bias": "model.layers.*.self_attn.sinks"}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers differ in window and positions: without a list of kinds, each fourth sees everything."""
    attention = sliding_granite_attention(config, n_kv_heads=4, n_ctx=8192)
    mlp = gated_mlp(config, bias=config.flag("mlp_bias", default=False))
    model = granite_decoder(config, attention, mlp, eps=1e-5)
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=True), names=NAMES)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: every multiplier, biases, bases by layer; one base, in the older spelling."""
    tiny = {"model_type": "granite_swa", **TINY, "sliding_window": 4}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    return (
        tiny
        | {"embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.3, "logits_scaling": 4.0}
        | {"attention_bias": True, "mlp_bias": True, "rope_parameters": linear, "layer_rope_theta": [0, 5e3, 100.0]},
        tiny
        | {"rope_theta": 1e3, "rms_norm_eps": 1e-6, "attention_multiplier": 0.35, "tie_word_embeddings": False}
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 3},
    )
