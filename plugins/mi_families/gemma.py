"""Gemma 1, CodeGemma, and everything else that ships as ``model_type: gemma``.

Traits: LLaMA with gains stored as offsets from one, embeddings times the root of the width, a tanh GELU.
Source: Gemma Team 2024, arXiv:2403.08295; transformers 5.24, models/gemma.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Layer, OnePlusGain, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.rope_config import rotary
from mi_decoder.translation import blueprint, decoder, gated_mlp, heads, only

INERT = {"hidden_activation": "a spelling that the reference does not read"}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers; ``gelu`` is what the first files called the tanh form that was trained."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=16, d_head=256)
    n_ctx = config.size("max_position_embeddings", default=8192)
    positions = rotary(config, d_head, n_ctx)
    only(config, "use_bidirectional_attention", False)
    bias = config.flag("attention_bias", default=False)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0), OnePlusGain())
    layer = Layer(
        ln1=norm,
        mixer=Attention(n_heads, n_kv_heads, d_head, positions, bias=bias, out_bias=bias),
        ln2=norm,
        channel=gated_mlp(config, activation="gelu_pytorch_tanh", meaning={"gelu": "gelu_pytorch_tanh"}),
    )
    scale = config.size("hidden_size") ** 0.5
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx), embed_scale=scale)
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=True), inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: as the files spell it, and everything else."""
    tiny = {"model_type": "gemma", **TINY, "head_dim": 12}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0}
    return (
        tiny | {"hidden_act": "gelu", "num_key_value_heads": 1, "attention_bias": True, "rope_parameters": linear},
        tiny | {"hidden_act": "relu", "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "rope_theta": 1e3},
    )
