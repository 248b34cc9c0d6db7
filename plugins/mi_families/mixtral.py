"""Mixtral 8x7B and 8x22B, and everything else that ships as ``model_type: mixtral``.

Traits: Mistral whose channel parts are mixtures of experts, weighted by a softmax that is normalised over the chosen.
Source: Jiang et al. 2024, arXiv:2401.04088; transformers 5.24, models/mixtral.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Experts, Layer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.moe_config import LEARNING_TO_ROUTE, expert_names, gate
from mi_decoder.rope_config import rotary
from mi_decoder.routing import TopK
from mi_decoder.translation import LLAMA_NAMES, blueprint, decoder, heads, or_none

MOE = "model.layers.*.block_sparse_moe"
NAMES = {
    **LLAMA_NAMES,
    "layers.*.channel.router": f"{MOE}.gate",
    **expert_names(f"{MOE}.experts", gate="w1", linear="w3", out="w2"),
}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=8)
    n_ctx = config.size("max_position_embeddings", default=131072)
    positions = rotary(config, d_head, n_ctx, theta=1e6)
    window = config.size("sliding_window", default=or_none(config, "sliding_window", None))
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-5, at_least=0.0))
    experts = Experts(
        n_experts=config.size("num_local_experts", default=8),
        d_mlp=config.size("intermediate_size"),
        routing=TopK(config.size("num_experts_per_tok", default=2), normalise=True),
        neurons=gate(config),
    )
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, window=window)
    model = decoder(config, Layer(mixer, experts, ln1=norm, ln2=norm), norm, positions.scaling.reach(n_ctx))
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=NAMES, inert=LEARNING_TO_ROUTE)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: six experts and a window; all experts, in the other spelling."""
    tiny = {"model_type": "mixtral", **TINY}
    return (
        tiny
        | {"num_local_experts": 6, "num_experts_per_tok": 3, "sliding_window": 4, "head_dim": 12}
        | {"rope_theta": 1e4, "num_hidden_layers": 2},
        tiny
        | {"num_local_experts": 3, "num_experts_per_tok": 2, "hidden_act": "gelu", "num_hidden_layers": 2}
        | {"rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}},
    )
