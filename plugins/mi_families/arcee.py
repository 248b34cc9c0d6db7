"""Arcee's AFM, and everything else that ships as ``model_type: arcee``.

Traits: LLaMA with a plain MLP of squared ReLU, and YaRN.
Source: Arcee AI 2025, huggingface.co/arcee-ai/AFM-4.5B; transformers 5.24, models/arcee.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Layer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.rope_config import rotary
from mi_decoder.translation import blueprint, decoder, heads, plain_mlp


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    n_heads, n_kv_heads, d_head = heads(config)
    n_ctx = config.size("max_position_embeddings", default=4096)
    positions = rotary(config, d_head, n_ctx)
    bias, mlp_bias = (config.flag(key, default=False) for key in ("attention_bias", "mlp_bias"))
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-5, at_least=0.0))
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, bias=bias, out_bias=bias)
    layer = Layer(mixer, plain_mlp(config, bias=mlp_bias, activation="relu2"), ln1=norm, ln2=norm)
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False))


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: YaRN and biases; the older spelling."""
    tiny = {"model_type": "arcee", **TINY, "num_hidden_layers": 2}
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 16}
    return (
        tiny | {"attention_bias": True, "mlp_bias": True, "head_dim": 12, "rope_parameters": yarn},
        tiny | {"rope_theta": 1e3, "rms_norm_eps": 1e-6, "hidden_act": "gelu", "tie_word_embeddings": True},
    )
