"""Phi-3, Phi-3.5, Phi-4, Phi-4-mini, and everything else that ships as ``model_type: phi3``.

Traits: LLaMA with fused matrices, LongRoPE over a part of each head, a window on every layer where one is given.
Source: Abdin et al. 2024, arXiv:2404.14219 and arXiv:2412.08905; transformers 5.24, models/phi3.
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
from mi_decoder.translation import blueprint, decoder, fused_names, gated_mlp, heads


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers; ``su`` and ``yarn`` are what the first files called LongRoPE."""
    n_heads, n_kv_heads, d_head = heads(config)
    n_ctx = config.size("max_position_embeddings", default=4096)
    positions = rotary(config, d_head, n_ctx, part=1.0, aliases={"su": "longrope", "yarn": "longrope"})
    window = config.size("sliding_window", default=None)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-5, at_least=0.0))
    mlp = gated_mlp(config)
    layer = Layer(
        ln1=norm,
        mixer=Attention(n_heads, n_kv_heads, d_head, positions, window=window),
        ln2=norm,
        channel=mlp,
    )
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    widths = [n_heads * d_head, n_kv_heads * d_head, n_kv_heads * d_head]
    names = fused_names("mixer", "self_attn.qkv_proj", "qkv", side_by_side(widths))
    halves = side_by_side([mlp.d_mlp, mlp.d_mlp])
    names = fused_names("channel", "mlp.gate_up_proj", ("gate", "in"), halves, names=names)
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False), names=names)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: a window and LongRoPE over a part of each head; plain, in the older spelling."""
    tiny = {"model_type": "phi3", **TINY, "original_max_position_embeddings": 4}
    factors = {"short_factor": [1.0, 1.2, 1.5], "long_factor": [1.0, 2.0, 3.0]}
    longrope = {"rope_type": "longrope", "rope_theta": 1e3, "partial_rotary_factor": 0.75, **factors}
    su = {"type": "su", "original_max_position_embeddings": 32, **factors}
    return (
        tiny | {"sliding_window": 4, "tie_word_embeddings": True, "rope_parameters": longrope},
        tiny
        | {"partial_rotary_factor": 0.75, "rope_scaling": su, "num_key_value_heads": 4}
        | {"original_max_position_embeddings": 32, "rms_norm_eps": 1e-6, "hidden_act": "gelu"},
        tiny | {"num_key_value_heads": 1, "rope_theta": 5e3},
    )
