"""InternLM 3, and everything else that ships as ``model_type: internlm3``.

Traits: LLaMA under another name.
Source: InternLM Team 2025, github.com/InternLM/InternLM; transformers 5.24, models/internlm3.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.hookspecs import hookimpl
from mi_decoder.examples import TINY
from mi_decoder.llama import llama_decoder
from mi_decoder.translation import blueprint


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers; ``qkv_bias`` and ``bias`` are what the first files called its biases."""
    bias = config.flag("attention_bias", default=config.flag("qkv_bias", default=False))
    mlp_bias = config.flag("mlp_bias", default=config.flag("bias", default=False))
    if bias != mlp_bias:
        raise BadConfig(
            f"{config.where}: 'qkv_bias' and 'bias' differ, which the reference does not compute.", path=config.where
        )
    model = llama_decoder(config, n_kv_heads=2, d_head=128, n_ctx=32768, eps=1e-5, bias=bias, mlp_bias=mlp_bias)
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False))


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: biases and a scaling; the older spelling."""
    tiny = {"model_type": "internlm3", **TINY, "num_hidden_layers": 2, "head_dim": 12}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    return (
        tiny | {"attention_bias": True, "mlp_bias": True, "rope_parameters": linear},
        tiny | {"qkv_bias": True, "bias": True, "rope_theta": 1e3, "rms_norm_eps": 1e-6, "tie_word_embeddings": True},
    )
