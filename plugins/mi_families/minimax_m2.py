"""MiniMax M2, and everything else that ships as ``model_type: minimax_m2``.

Traits: LLaMA with norms over all queries and all keys and part of each head rotary; experts in every layer, chosen by
sigmoid scores with a bias. Source: MiniMax 2025, MiniMax-M2; transformers 5.24, models/minimax_m2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Experts, HeadNorm, Layer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.moe_config import LEARNING_TO_ROUTE, expert_names, gate
from mi_decoder.rope_config import rotary
from mi_decoder.routing import TopK
from mi_decoder.translation import NORMED_HEADS, blueprint, decoder, heads

MOE = "model.layers.*.block_sparse_moe"
NAMES = {
    **NORMED_HEADS,
    "layers.*.channel.router": f"{MOE}.gate",
    "layers.*.channel.selection_bias": f"{MOE}.e_score_correction_bias",
    **expert_names(f"{MOE}.experts", gate="w1", linear="w3", out="w2"),
}
NOTES = (
    *("attn_type_list", "mlp_intermediate_size", "num_mtp_modules", "mtp_transformer_layers", "qk_norm_type"),
    *("scoring_func", "shared_intermediate_size", "shared_moe_mode", "use_mtp", "use_qk_norm", "use_routing_bias"),
    *("layernorm_full_attention_beta", "layernorm_linear_attention_beta", "layernorm_mlp_beta"),
    *("max_model_len", "use_grouped_topk"),
)
INERT = {**LEARNING_TO_ROUTE, **dict.fromkeys(NOTES, "a note that the reference does not read")}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=8, d_head=128)
    n_ctx = config.size("max_position_embeddings", default=196608)
    turned = config.size("rotary_dim", default=d_head)
    positions = rotary(config, d_head, n_ctx, theta=5e6, part=turned / d_head)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0))
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, qk_norm=HeadNorm(norm, "together"))
    experts = Experts(
        n_experts=config.size("num_local_experts", default=256),
        d_mlp=config.size("intermediate_size"),
        routing=TopK(config.size("num_experts_per_tok", default=8), score="sigmoid", normalise=True),
        neurons=gate(config),
        selection_bias=True,
    )
    model = decoder(config, Layer(mixer, experts, ln1=norm, ln2=norm), norm, positions.scaling.reach(n_ctx))
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=NAMES, inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: part of each head turned, in both ways to say it."""
    tiny = {"model_type": "minimax_m2", **TINY, "num_hidden_layers": 2, "num_local_experts": 6, "head_dim": 12}
    tiny |= {"num_experts_per_tok": 3, "intermediate_size": 20}
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    return (
        tiny | {"rope_parameters": rope},
        tiny | {"rotary_dim": 8, "rope_theta": 1e3, "tie_word_embeddings": True, "num_experts_per_tok": 2},
    )
