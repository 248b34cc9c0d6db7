"""OLMoE (1B-7B), and everything else that ships as ``model_type: olmoe``.

Traits: LLaMA with norms over all queries and all keys, perhaps clipped behind them; experts in every layer.
Source: Muennighoff et al. 2024, arXiv:2409.02060; transformers 5.24, models/olmoe.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Experts, HeadNorm, Layer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.moe_config import LEARNING_TO_ROUTE, gate, moe_names, n_experts
from mi_decoder.rope_config import rotary
from mi_decoder.routing import TopK
from mi_decoder.translation import NORMED_HEADS, blueprint, decoder, heads

NAMES = {**NORMED_HEADS, **moe_names()}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    n_heads, n_kv_heads, d_head = heads(config)
    n_ctx = config.size("max_position_embeddings", default=4096)
    positions = rotary(config, d_head, n_ctx)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-5, at_least=0.0))
    bias = config.flag("attention_bias", default=False)
    values: dict[str, Any] = {"bias": bias, "out_bias": bias, "qk_norm": HeadNorm(norm, "together")}
    values |= {"clip": config.number("clip_qkv", default=None, at_least=1e-9), "clip_normed": True}
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, **values)
    normalise = config.flag("norm_topk_prob", default=False)
    experts = Experts(
        n_experts=n_experts(config, "num_experts", "num_local_experts", default=64),
        d_mlp=config.size("intermediate_size"),
        routing=TopK(config.size("num_experts_per_tok", default=8), normalise=normalise),
        neurons=gate(config),
        rounded=True,
    )
    model = decoder(config, Layer(mixer, experts, ln1=norm, ln2=norm), norm, positions.scaling.reach(n_ctx))
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=NAMES, inert=LEARNING_TO_ROUTE)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: as published; normalised weights, biases and a clip, in the older spelling."""
    tiny = {"model_type": "olmoe", **TINY, "num_hidden_layers": 2, "num_experts_per_tok": 3, "intermediate_size": 20}
    return (
        tiny | {"num_experts": 8},
        tiny
        | {"num_experts": 5, "clip_qkv": 0.7, "norm_topk_prob": True, "attention_bias": True, "rope_theta": 1e3}
        | {"tie_word_embeddings": True, "rms_norm_eps": 1e-6},
    )
