"""FlexOlmo, and everything else that ships as ``model_type: flex_olmo``.

Traits: OLMo 2 whose channel parts are mixtures of experts.
Source: Shi et al. 2025, arXiv:2507.07024; transformers 5.24, models/flex_olmo.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Experts, HeadNorm, Layer, RMSNorm, WideGain
from mi_decoder.examples import TINY
from mi_decoder.moe_config import LEARNING_TO_ROUTE, gate, moe_names, n_experts
from mi_decoder.rope_config import rotary
from mi_decoder.routing import TopK
from mi_decoder.translation import BEHIND_NAMES, blueprint, decoder, heads

NAMES = {**BEHIND_NAMES, **moe_names()}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    n_heads, n_kv_heads, d_head = heads(config)
    n_ctx = config.size("max_position_embeddings", default=4096)
    positions = rotary(config, d_head, n_ctx, theta=500000.0, wide=True)
    bias = config.flag("attention_bias", default=False)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0), WideGain())
    values: dict[str, Any] = {"bias": bias, "out_bias": bias, "qk_norm": HeadNorm(norm, "together")}
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, **values)
    normalise = config.flag("norm_topk_prob", default=False)
    experts = Experts(
        n_experts=n_experts(config, "num_experts", "num_local_experts", default=7),
        d_mlp=config.size("intermediate_size"),
        routing=TopK(config.size("num_experts_per_tok", default=5), normalise=normalise),
        neurons=gate(config),
        rounded=True,
    )
    layer = Layer(mixer, experts, ln1_post=norm, ln2_post=norm)
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=NAMES, inert=LEARNING_TO_ROUTE)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: biases and a scaling; normalised weights, in the older spelling."""
    tiny = {"model_type": "flex_olmo", **TINY, "num_hidden_layers": 2, "num_experts_per_tok": 3}
    tiny |= {"intermediate_size": 20, "num_experts": 6}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    return (
        tiny | {"attention_bias": True, "rope_parameters": linear},
        tiny | {"rope_theta": 1e3, "rms_norm_eps": 1e-4, "norm_topk_prob": True, "tie_word_embeddings": True},
    )
