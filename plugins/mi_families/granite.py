"""Granite 3, and everything else that ships as ``model_type: granite``.

Traits: LLaMA with multipliers of embeddings, scores, what is added to the stream, and logits.
Source: Granite Team 2024, ibm.com/granite; transformers 5.24, models/granite.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder.examples import TINY
from mi_decoder.granite import granite_attention, granite_decoder
from mi_decoder.translation import blueprint, gated_mlp


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    mlp = gated_mlp(config, bias=config.flag("mlp_bias", default=False))
    model = granite_decoder(config, granite_attention(config), mlp)
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False))


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: every multiplier and bias; the older spelling."""
    tiny = {"model_type": "granite", **TINY}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    return (
        tiny
        | {"embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.3, "logits_scaling": 4.0}
        | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "rope_parameters": linear},
        tiny | {"rope_theta": 1e3, "rms_norm_eps": 1e-5, "attention_multiplier": 0.35},
    )
