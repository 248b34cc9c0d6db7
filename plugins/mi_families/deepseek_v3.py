"""DeepSeek V3, V3.1 and R1 (as released in FP8, or plain), and all else that ships as ``model_type: deepseek_v3``.

Traits: latent attention; behind the first layers, experts that are chosen by sigmoid scores, a bias and groups, and a
shared one. Source: DeepSeek-AI 2024, arXiv:2412.19437; transformers 5.24, models/deepseek_v3.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Layer, RMSNorm
from mi_decoder.deepseek import LATENT_NAMES, latent_attention
from mi_decoder.examples import TINY_LATENT, YARN_MSCALE
from mi_decoder.moe_config import BIASED_ROUTER, LEARNING_TO_ROUTE, sigmoid_experts, spare_layers
from mi_decoder.translation import COMPUTED, blueprint, decoder, gated_mlp, only

NAMES = {**LATENT_NAMES, **BIASED_ROUTER}
INERT = {**LEARNING_TO_ROUTE, "pretraining_tp": "how training split matrices"}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose first layers are dense."""
    n_ctx = config.size("max_position_embeddings", default=4096)
    interleaved = config.flag("rope_interleave", default=True)
    mixer, reach = latent_attention(config, n_ctx, interleaved=interleaved)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0))
    n_dense = config.size("first_k_dense_replace", default=3, at_least=0)
    dense, experts = gated_mlp(config), sigmoid_experts(config, scale=2.5, n_shared=1, groups=(8, 4))
    for key, wanted in (("moe_layer_freq", 1), ("scoring_func", "sigmoid"), ("topk_method", "noaux_tc")):
        only(config, key, wanted)
    dropped = {**COMPUTED, **spare_layers(config, "num_nextn_predict_layers", "num_mtp_layers")}

    def layer(index: int) -> Layer:
        return Layer(mixer, dense if index < n_dense else experts, ln1=norm, ln2=norm)

    model = decoder(config, layer, norm, reach)
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=NAMES, dropped=dropped, inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: YaRN and groups; queries without a latent, biases, in the older spelling."""
    tiny = {"model_type": "deepseek_v3", **TINY_LATENT}
    return (
        tiny | {"n_group": 4, "topk_group": 2, "first_k_dense_replace": 1, "rope_parameters": YARN_MSCALE},
        tiny
        | {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 0, "q_lora_rank": None, "attention_bias": True}
        | {"rope_interleave": False, "rope_theta": 1e3, "norm_topk_prob": False, "n_shared_experts": 2},
    )
