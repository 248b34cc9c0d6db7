"""Hunyuan (dense, 0.5B to 7B), and everything else that ships as ``model_type: hunyuan_v1_dense``.

Traits: LLaMA whose queries and keys are normed behind their rotation; a rotary base stretched by a fixed factor.
Source: Tencent Hunyuan Team 2025, github.com/Tencent-Hunyuan/Hunyuan-7B; transformers 5.24, models/hunyuan_v1_dense.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, HeadNorm, Layer, RMSNorm, Rotary
from mi_decoder.examples import TINY
from mi_decoder.rope_config import rope_values, rotary
from mi_decoder.rope_scalings import Unscaled
from mi_decoder.translation import LLAMA_NAMES, blueprint, decoder, gated_mlp, heads, module_names

__all__ = ["mi_family", "mi_family_examples", "stretched"]

NORMS = {"mixer.q_norm": "self_attn.query_layernorm", "mixer.k_norm": "self_attn.key_layernorm"}
NAMES = {**LLAMA_NAMES, **module_names("model.layers.*", NORMS)}
IDLE = "beta_fast beta_slow mscale mscale_all_dim factor"
INERT = {"eod_token_id": "a token id that only texts need"}
INERT |= {f"{at}.{key}": "alpha alone counts" for at in ("rope_scaling", "rope_parameters") for key in IDLE.split()}


def stretched(config: Config, d_head: int, n_ctx: int) -> Rotary:
    """Rotary positions; ``dynamic`` with an ``alpha`` is a fixed base, whatever the length.

    Source: transformers 5.24, HunYuanDenseV1RotaryEmbedding.compute_ntk_alpha_rope_parameters.
    """
    positions, alpha = rotary(config, d_head, n_ctx), rope_values(config).number("alpha", default=None, at_least=1e-9)
    if alpha is None:
        return positions
    return replace(positions, theta=positions.theta * alpha ** (d_head / (d_head - 2)), scaling=Unscaled())


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    n_heads, n_kv_heads, d_head = heads(config)
    n_ctx = config.size("max_position_embeddings", default=2048)
    positions = stretched(config, d_head, n_ctx)
    bias = config.flag("attention_bias", default=False)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-5, at_least=0.0))
    values: dict[str, Any] = {"bias": bias, "out_bias": bias, "qk_norm": HeadNorm(norm, late=True)}
    layer = Layer(Attention(n_heads, n_kv_heads, d_head, positions, **values), gated_mlp(config), ln1=norm, ln2=norm)
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=NAMES, inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: as published; biases and another scaling, in the older spelling."""
    tiny = {"model_type": "hunyuan_v1_dense", **TINY, "num_hidden_layers": 2, "head_dim": 12}
    alpha = {"rope_type": "dynamic", "alpha": 50.0, "factor": 1.0, "beta_fast": 32, "beta_slow": 1, "rope_theta": 1e3}
    return (
        tiny | {"rope_parameters": alpha, "tie_word_embeddings": True},
        tiny
        | {"attention_bias": True, "rope_theta": 1e3, "rope_scaling": {"type": "linear", "factor": 2.0}}
        | {"rms_norm_eps": 1e-6, "hidden_act": "gelu"},
    )
