"""Granite 3 with experts (1B-A400M, 3B-A800M), and everything else that ships as ``model_type: granitemoe``.

Traits: Granite whose channel parts are mixtures of experts, weighted by a softmax over the chosen ones.
Source: IBM 2024, Granite 3.0 Language Models; transformers 5.24, models/granitemoe.
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
    model, names = granite_moe_decoder(config), granite_moe_names(config)
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=names, inert=LEARNING_TO_ROUTE)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: every multiplier and bias; the older spelling."""
    tiny = {"model_type": "granitemoe", **TINY, "num_hidden_layers": 2, "num_local_experts": 6}
    tiny |= {"num_experts_per_tok": 3, "intermediate_size": 20}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    return (
        tiny
        | {"embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.3, "logits_scaling": 4.0}
        | {"attention_bias": True, "tie_word_embeddings": True, "rope_parameters": linear},
        tiny | {"rope_theta": 1e3, "rms_norm_eps": 1e-5, "attention_multiplier": 0.35, "num_experts_per_tok": 2},
    )
