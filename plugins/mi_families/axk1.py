"""SK Telecom's A.X K1, and everything else that ships as ``model_type: axk1``.

Traits: DeepSeek 3 with a norm behind the experts. Source: SK Telecom 2026, huggingface.co/skt; transformers 5.24,
models/axk1.
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
from mi_decoder.moe_config import BIASED_ROUTER, LEARNING_TO_ROUTE, dense_or_sparse, sigmoid_experts, spare_layers
from mi_decoder.translation import COMPUTED, blueprint, decoder, gated_mlp, only

NAMES = {**LATENT_NAMES, **BIASED_ROUTER, "layers.*.ln2_post": "model.layers.*.post_mlp_layernorm"}
INERT = {**LEARNING_TO_ROUTE, "pretraining_tp": "how training split matrices"}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose first layer is dense, unless its config says which are."""
    n_ctx = config.size("max_position_embeddings", default=32768)
    interleaved = config.flag("rope_interleave", default=True)
    mixer, reach = latent_attention(config, n_ctx, interleaved=interleaved)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0))
    sparse, dense = dense_or_sparse(config), gated_mlp(config)
    experts = sigmoid_experts(config, scale=2.5, n_shared=1, groups=(8, 4))
    for key, wanted in (("moe_layer_freq", 1), ("scoring_func", "sigmoid"), ("topk_method", "noaux_tc")):
        only(config, key, wanted)
    dropped = {**COMPUTED, **spare_layers(config, "num_nextn_predict_layers")}

    def layer(index: int) -> Layer:
        if sparse[index]:
            return Layer(mixer, experts, ln1=norm, ln2=norm, ln2_post=norm)
        return Layer(mixer, dense, ln1=norm, ln2=norm)

    model = decoder(config, layer, norm, reach)
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=NAMES, dropped=dropped, inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: YaRN and groups; biases, kinds by list, in the older spelling."""
    tiny = {"model_type": "axk1", **TINY_LATENT}
    return (
        tiny | {"n_group": 4, "topk_group": 2, "first_k_dense_replace": 1, "rope_parameters": YARN_MSCALE},
        tiny
        | {"n_group": 1, "topk_group": 1, "mlp_layer_types": ["sparse", "sparse"], "attention_bias": True}
        | {"rope_interleave": False, "rope_theta": 1e3, "norm_topk_prob": False, "n_shared_experts": 2},
    )
