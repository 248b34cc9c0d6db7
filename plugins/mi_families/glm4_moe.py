"""GLM 4.5, 4.6 and 4.7, and everything else that ships as ``model_type: glm4_moe``.

Traits: LLaMA with half of each head rotary, perhaps with norms of queries and keys; DeepSeek 3's experts behind the
first layers. Source: GLM-4.5 Team 2025, arXiv:2508.06471; transformers 5.24, models/glm4_moe.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, HeadNorm, Layer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.moe_config import BIASED_ROUTER, LEARNING_TO_ROUTE, moe_names, sigmoid_experts, spare_layers
from mi_decoder.rope_config import rotary
from mi_decoder.translation import COMPUTED, NORMED_HEADS, blueprint, decoder, gated_mlp, heads

NAMES = {**NORMED_HEADS, **moe_names(shared="shared_experts"), **BIASED_ROUTER}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose first layers are dense."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=8)
    n_ctx = config.size("max_position_embeddings", default=131072)
    positions = rotary(config, d_head, n_ctx, part=0.5)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-5, at_least=0.0))
    qk_norm = HeadNorm(norm) if config.flag("use_qk_norm", default=False) else None
    bias = config.flag("attention_bias", default=False)
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, bias=bias, qk_norm=qk_norm)
    n_dense = config.size("first_k_dense_replace", default=1, at_least=0)
    dense, experts = gated_mlp(config), sigmoid_experts(config, n_shared=1)
    spare = spare_layers(config, "num_nextn_predict_layers", "num_mtp_layers")

    def layer(index: int) -> Layer:
        return Layer(mixer, dense if index < n_dense else experts, ln1=norm, ln2=norm)

    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    tied = config.flag("tie_word_embeddings", default=False)
    dropped = {**COMPUTED, **spare}
    return blueprint(model, tensors, tied=tied, names=NAMES, dropped=dropped, inert=LEARNING_TO_ROUTE)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: groups, norms of heads and biases; no groups, in the older spelling."""
    tiny = {"model_type": "glm4_moe", **TINY, "num_hidden_layers": 2, "num_experts_per_tok": 3, "head_dim": 12}
    tiny |= {"moe_intermediate_size": 20, "n_routed_experts": 8}
    return (
        tiny
        | {"n_group": 4, "topk_group": 2, "routed_scaling_factor": 1.5, "use_qk_norm": True, "attention_bias": True}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        tiny
        | {"norm_topk_prob": False, "rope_theta": 1e3, "n_shared_experts": 2, "tie_word_embeddings": True}
        | {"first_k_dense_replace": 0, "partial_rotary_factor": 0.5},
    )
