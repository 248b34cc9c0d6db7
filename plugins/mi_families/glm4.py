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
from mi_decoder import Attention, GatedMLP, Layer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.glm import glm_blueprint
from mi_decoder.translation import LLAMA_NAMES, module_names

__all__ = ["layer", "mi_family", "mi_family_examples"]

BEHIND = {"ln1_post": "post_self_attn_layernorm", "ln2_post": "post_mlp_layernorm"}
NAMES = {**LLAMA_NAMES, **module_names("model.layers.*", BEHIND)}


def layer(mixer: Attention, mlp: GatedMLP, norm: RMSNorm) -> Layer:
    """With norms before and behind both parts."""
    return Layer(mixer, mlp, ln1=norm, ln2=norm, ln1_post=norm, ln2_post=norm)


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    return glm_blueprint(config, tensors, layer, NAMES)


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
