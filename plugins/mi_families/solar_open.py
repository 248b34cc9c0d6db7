"""Solar Open (100B), and everything else that ships as ``model_type: solar_open``.

Traits: LLaMA with DeepSeek 3's experts in every layer.
Source: Upstage 2025, Solar Open; transformers 5.24, models/solar_open.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Layer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.moe_config import BIASED_ROUTER, LEARNING_TO_ROUTE, moe_names, sigmoid_experts
from mi_decoder.rope_config import rotary
from mi_decoder.translation import LLAMA_NAMES, blueprint, decoder, heads

NAMES = {**LLAMA_NAMES, **moe_names(shared="shared_experts"), **BIASED_ROUTER}
NOTES = ("first_k_dense_replace", "intermediate_size", "use_qk_norm", "num_nextn_predict_layers")
INERT = {**LEARNING_TO_ROUTE, **dict.fromkeys(NOTES, "every layer has experts, and heads are not normed")}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=8, d_head=128)
    n_ctx = config.size("max_position_embeddings", default=131072)
    positions = rotary(config, d_head, n_ctx, theta=1e6, part=1.0)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-5, at_least=0.0))
    bias = config.flag("attention_bias", default=False)
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, bias=bias)
    layer = Layer(mixer, sigmoid_experts(config, n_shared=1), ln1=norm, ln2=norm)
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=NAMES, inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: groups; biases and two shared experts, in the older spelling."""
    tiny = {"model_type": "solar_open", **TINY, "num_hidden_layers": 2, "num_experts_per_tok": 3, "head_dim": 12}
    tiny |= {"moe_intermediate_size": 20, "n_routed_experts": 8}
    return (
        tiny | {"n_group": 4, "topk_group": 2, "routed_scaling_factor": 1.5, "rope_theta": 1e4},
        tiny | {"norm_topk_prob": False, "rope_theta": 1e3, "n_shared_experts": 2, "attention_bias": True},
    )
