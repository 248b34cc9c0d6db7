"""GLM's decoder, which GLM-4-0414 has with more norms.

Source: GLM Team 2024, arXiv:2406.12793; transformers 5.24, models/glm and models/glm4.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_decoder.attention import Attention
from mi_decoder.fused import side_by_side
from mi_decoder.layers import Layer
from mi_decoder.mlp import GatedMLP
from mi_decoder.norms import RMSNorm
from mi_decoder.rope_config import rotary
from mi_decoder.translation import LLAMA_NAMES, Source, blueprint, decoder, fused_names, gated_mlp, heads

__all__ = ["glm_blueprint"]


def glm_blueprint(
    config: Config,
    tensors: Collection[str] | None,
    layer: Callable[[Attention, GatedMLP, RMSNorm], Layer],
    names: Mapping[str, Source] = LLAMA_NAMES,
) -> Blueprint:
    """A decoder of equal layers; ``layer`` puts the norm where the family has it."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=2, d_head=128)
    n_ctx = config.size("max_position_embeddings", default=131072)
    positions = rotary(config, d_head, n_ctx, part=0.5, interleaved=True)
    bias = config.flag("attention_bias", default=True)
    norm = RMSNorm(config.number("rms_norm_eps", default=1.5625e-7, at_least=0.0))
    mixer, mlp = Attention(n_heads, n_kv_heads, d_head, positions, bias=bias), gated_mlp(config)
    model = decoder(config, layer(mixer, mlp, norm), norm, positions.scaling.reach(n_ctx))
    halves = side_by_side([mlp.d_mlp, mlp.d_mlp])
    names = fused_names("channel", "mlp.gate_up_proj", ("gate", "in"), halves, names=names)
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False), names=names)
