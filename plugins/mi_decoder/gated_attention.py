"""Attention with normed heads, partial rotary positions and an output gate that lies beside the queries.

Source: Qiu et al. 2025, arXiv:2505.06708; transformers 5.24, Qwen3NextAttention.
"""

from __future__ import annotations

from collections.abc import Mapping

from mi_core.config import Config
from mi_decoder.attention import Attention
from mi_decoder.fused import of_each_head
from mi_decoder.gains import OnePlusGain
from mi_decoder.head_norms import HeadNorm
from mi_decoder.norms import RMSNorm
from mi_decoder.output_gate import OutputGate
from mi_decoder.rope_config import rotary
from mi_decoder.rotary import Rotary
from mi_decoder.translation import NORMED_HEADS, Source, heads

__all__ = ["gated_attention", "gated_names", "one_plus_norm", "reach"]


def one_plus_norm(config: Config) -> RMSNorm:
    """The norm of a config whose gains are stored as what they are above one."""
    return RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0), OnePlusGain())


def gated_attention(config: Config, n_kv_heads: int) -> Attention:
    """The mixer; ``n_kv_heads`` is the family's default.

    Source: transformers 5.24, Qwen3NextConfig (a head of 256, of which a quarter is turned).
    """
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=n_kv_heads, d_head=256)
    positions = rotary(config, d_head, n_ctx(config), part=0.25)
    bias = config.flag("attention_bias", default=False)
    return Attention(
        *(n_heads, n_kv_heads, d_head, positions),
        bias=bias,
        out_bias=bias,
        qk_norm=HeadNorm(one_plus_norm(config)),
        gate=OutputGate(bias=bias),
    )


def n_ctx(config: Config) -> int:
    """How many positions the config names."""
    number: int = config.size("max_position_embeddings", default=32768)
    return number


def reach(config: Config, attention: Attention) -> int | None:
    """How many positions the model has, with the scaling of its rotary positions."""
    return attention.positions.scaling.reach(n_ctx(config)) if isinstance(attention.positions, Rotary) else None


def gated_names(attention: Attention) -> Mapping[str, Source]:
    """Our modules -> the checkpoint's: each head's queries are followed by its gate."""
    query, gate = of_each_head(attention.n_heads, attention.d_head, 2)
    fused = "model.layers.*.self_attn.q_proj"
    return {**NORMED_HEADS, "layers.*.mixer.q": (fused, query), "layers.*.mixer.gate": (fused, gate)}
