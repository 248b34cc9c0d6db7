"""Granite with experts and sliding windows, and everything else that ships as ``model_type: granitemoe_swa``.

Traits: Granite with experts, perhaps a shared one; attention sinks, windows on all layers but each fourth, layers with
rotary bases of their own, or without positions. Source: IBM 2026, ibm.com/granite; transformers 5.24,
models/granitemoe_swa.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder.examples import TINY
from mi_decoder.fused import EachExpert
from mi_decoder.granite import sliding_granite_attention
from mi_decoder.granite_moe import granite_moe_decoder, granite_moe_names
from mi_decoder.moe_config import LEARNING_TO_ROUTE
from mi_decoder.translation import Source, blueprint

MOE = "model.layers.*.block_sparse_moe"
# here the experts' tensors are the modules' own
OWN: Mapping[str, Source] = {
    "layers.*.mixer.sink_bias": "model.layers.*.self_attn.sinks",
    "layers.*.channel.router": f"{MOE}.router",
    "layers.*.channel.experts.*.gate_weight": (f"{MOE}.experts.gate_up_proj", EachExpert(lambda t: t.chunk(2)[0])),
    "layers.*.channel.experts.*.in_weight": (f"{MOE}.experts.gate_up_proj", EachExpert(lambda t: t.chunk(2)[1])),
    "layers.*.channel.experts.*.out_weight": (f"{MOE}.experts.down_proj", EachExpert()),
}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers differ in window and positions: without a list of kinds, each fourth sees everything."""
    shared = config.size("shared_intermediate_size", default=0, at_least=0)
    model = granite_moe_decoder(config, sliding_granite_attention(config), shared=shared)
    names = {**granite_moe_names(config, shared=shared), **OWN}
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=names, inert=LEARNING_TO_ROUTE)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: every multiplier, a shared expert, bases by layer; none shared, one base, in the older spelling."""
    tiny = {"model_type": "granitemoe_swa", **TINY, "num_local_experts": 6, "sliding_window": 4}
    tiny |= {"num_experts_per_tok": 3, "intermediate_size": 20}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    return (
        tiny
        | {"embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.3, "logits_scaling": 4.0}
        | {"attention_bias": True, "shared_intermediate_size": 24, "tie_word_embeddings": True}
        | {"rope_parameters": linear, "layer_rope_theta": [0, 5e3, 100.0]},
        tiny
        | {"rope_theta": 1e3, "rms_norm_eps": 1e-5, "attention_multiplier": 0.35, "num_experts_per_tok": 2}
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 3},
    )
