"""GLM 4.7 Flash, and everything else that ships as ``model_type: glm4_moe_lite``.

Traits: DeepSeek 3's latent attention and experts; layers are dense or sparse by list.
Source: Z.ai 2026, GLM-4.7-Flash; transformers 5.24, models/glm4_moe_lite.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Layer, RMSNorm
from mi_decoder.deepseek import LATENT_NAMES, latent_attention
from mi_decoder.examples import TINY
from mi_decoder.moe_config import BIASED_ROUTER, LEARNING_TO_ROUTE, dense_or_sparse, sigmoid_experts, spare_layers
from mi_decoder.translation import COMPUTED, blueprint, decoder, gated_mlp, only

NAMES = {**LATENT_NAMES, **BIASED_ROUTER}
INERT = {**LEARNING_TO_ROUTE, "pretraining_tp": "how training split matrices"}
SIZES = {"qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256, "kv_lora_rank": 512, "q_lora_rank": 768}
"""What the reference takes for sizes that a config leaves out. Source: transformers 5.24, Glm4MoeLiteConfig."""


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers are dense or sparse."""
    n_ctx = config.size("max_position_embeddings", default=202752)
    interleaved = config.flag("rope_interleave", default=True)
    mixer, reach = latent_attention(config, n_ctx, sizes=SIZES, interleaved=interleaved)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-5, at_least=0.0))
    dense, experts, sparse = gated_mlp(config), sigmoid_experts(config, scale=1.8, n_shared=1), dense_or_sparse(config)
    for key, wanted in (("topk_method", "noaux_tc"), ("partial_rotary_factor", 1.0)):
        only(config, key, wanted)
    dropped = {**COMPUTED, **spare_layers(config, "num_nextn_predict_layers")}

    def layer(index: int) -> Layer:
        return Layer(mixer, experts if sparse[index] else dense, ln1=norm, ln2=norm)

    model = decoder(config, layer, norm, reach)
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=NAMES, dropped=dropped, inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: YaRN and groups; queries without a latent, kinds by list, in the older spelling."""
    tiny = {"model_type": "glm4_moe_lite", **TINY, "num_hidden_layers": 2, "num_experts_per_tok": 3}
    tiny |= {"moe_intermediate_size": 20, "n_routed_experts": 8, "kv_lora_rank": 12, "num_key_value_heads": 4}
    tiny |= {"qk_nope_head_dim": 6, "qk_rope_head_dim": 8, "v_head_dim": 10, "q_lora_rank": 14}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4}
    return (
        tiny | {"n_group": 4, "topk_group": 2, "rope_parameters": {**yarn, "mscale": 1.0, "mscale_all_dim": 0.7}},
        tiny
        | {"mlp_layer_types": ["sparse", "dense"], "q_lora_rank": None, "attention_bias": True, "rope_theta": 1e3}
        | {"rope_interleave": False, "norm_topk_prob": False},
    )
