"""Granite with experts and a shared one, and everything else that ships as ``model_type: granitemoeshared``.

Traits: Granite with mixtures of experts, beside which a shared expert reads every token.
Source: IBM 2024, Granite 3.0 Language Models; transformers 5.24, models/granitemoeshared.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder.examples import TINY
from mi_decoder.granite_moe import granite_moe_decoder, granite_moe_names
from mi_decoder.moe_config import LEARNING_TO_ROUTE
from mi_decoder.translation import blueprint


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    shared = config.size("shared_intermediate_size", default=0, at_least=0)
    model, names = granite_moe_decoder(config, shared=shared), granite_moe_names(config, shared=shared)
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=names, inert=LEARNING_TO_ROUTE)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: a shared expert and every multiplier; none, in the older spelling."""
    tiny = {"model_type": "granitemoeshared", **TINY, "num_hidden_layers": 2, "num_local_experts": 6}
    tiny |= {"num_experts_per_tok": 3, "intermediate_size": 20}
    return (
        tiny
        | {"embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.3, "logits_scaling": 4.0}
        | {"attention_bias": True, "shared_intermediate_size": 24},
        tiny | {"rope_theta": 1e3, "rms_norm_eps": 1e-5, "attention_multiplier": 0.35, "num_experts_per_tok": 2},
    )
