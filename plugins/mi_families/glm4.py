"""GLM-4-0414, GLM-Z1, and everything else that ships as ``model_type: glm4``.

Traits: GLM with norms before and behind both parts.
Source: GLM Team 2024, arXiv:2406.12793; transformers 5.24, models/glm4.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Layer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.fused import side_by_side
from mi_decoder.rope_config import rotary
from mi_decoder.translation import LLAMA_NAMES, blueprint, decoder, fused_names, gated_mlp, heads, module_names

BEHIND = {"ln1_post": "post_self_attn_layernorm", "ln2_post": "post_mlp_layernorm"}
NAMES = {**LLAMA_NAMES, **module_names("model.layers.*", BEHIND)}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=2, d_head=128)
    n_ctx = config.size("max_position_embeddings", default=131072)
    positions = rotary(config, d_head, n_ctx, part=0.5, interleaved=True)
    bias = config.flag("attention_bias", default=True)
    norm = RMSNorm(config.number("rms_norm_eps", default=1.5625e-7, at_least=0.0))
    mixer, mlp = Attention(n_heads, n_kv_heads, d_head, positions, bias=bias), gated_mlp(config)
    layer = Layer(mixer, mlp, ln1=norm, ln2=norm, ln1_post=norm, ln2_post=norm)
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    halves = side_by_side([mlp.d_mlp, mlp.d_mlp])
    names = fused_names("channel", "mlp.gate_up_proj", ("gate", "in"), halves, names=NAMES)
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False), names=names)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: as published with a scaling; everything else, in the older spelling."""
    tiny = {"model_type": "glm4", **TINY, "head_dim": 12}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3, "partial_rotary_factor": 0.5}
    return (
        tiny | {"rope_parameters": linear},
        tiny
        | {"attention_bias": False, "rope_theta": 1e3, "rms_norm_eps": 1e-5, "hidden_act": "gelu"}
        | {"tie_word_embeddings": True},
    )
