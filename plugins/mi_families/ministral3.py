"""Ministral 3 (3B, 8B, 14B), and everything else that ships as ``model_type: ministral3``.

Traits: Mistral with YaRN and queries that grow with their position beyond the original context.
Source: Mistral AI 2025, arXiv:2601.08584; transformers 5.24, models/ministral3.
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
from mi_decoder.temperature import Temperature
from mi_decoder.translation import blueprint, decoder, gated_mlp, heads

ABSENT = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16384}
ABSENT |= {"beta_fast": 32.0, "beta_slow": 1.0, "mscale_all_dim": 1.0, "mscale": 1.0, "llama_4_scaling_beta": 0.1}
"""What the reference takes for positions that a config leaves out. Source: transformers 5.24, Ministral3Config."""


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=8, d_head=128)
    n_ctx = config.size("max_position_embeddings", default=262144)
    given = next((key for key in ("rope_scaling", "rope_parameters") if config.get(key) is not None), None)
    rope = Config(ABSENT, where=config.where) if given is None else config.child(given)
    positions = rotary(config, d_head, n_ctx, rope=rope)
    rope.size("max_position_embeddings", default=n_ctx)  # a copy of the outer one
    period = rope.size("original_max_position_embeddings", default=n_ctx)
    temperature = Temperature(rope.number("llama_4_scaling_beta", default=0.0), float(period))
    window = config.size("sliding_window", default=None)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-5, at_least=0.0))
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, window=window, temperature=temperature)
    model = decoder(config, Layer(mixer, gated_mlp(config), ln1=norm, ln2=norm), norm, positions.scaling.reach(n_ctx))
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False))


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: rows longer than the original context; a window."""
    tiny = {"model_type": "ministral3", **TINY, "num_hidden_layers": 2, "head_dim": 12}
    yarn = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4, "rope_theta": 1e4}
    yarn |= {"mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 4.0, "beta_slow": 1.0}
    return (
        tiny | {"rope_parameters": {**yarn, "llama_4_scaling_beta": 0.7, "max_position_embeddings": 64}},
        tiny
        | {"rope_parameters": {**yarn, "llama_4_scaling_beta": 0.1}, "sliding_window": 4, "rms_norm_eps": 1e-6}
        | {"tie_word_embeddings": True},
    )
