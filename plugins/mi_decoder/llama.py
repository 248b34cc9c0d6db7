"""LLaMA's decoder, which ships under more than one name.

Source: Touvron et al. 2023, arXiv:2302.13971 and arXiv:2307.09288; transformers 5.24, models/llama.
"""

from __future__ import annotations

from mi_core.config import Config
from mi_decoder.attention import Attention
from mi_decoder.decoder import Decoder
from mi_decoder.layers import Layer
from mi_decoder.norms import RMSNorm
from mi_decoder.rope_config import rotary
from mi_decoder.translation import decoder, gated_mlp, heads

__all__ = ["llama_decoder"]


def llama_decoder(
    config: Config,
    *,
    n_kv_heads: int | None = None,
    d_head: int | None = None,
    n_ctx: int = 2048,
    eps: float = 1e-6,
    bias: bool = False,
    mlp_bias: bool = False,
) -> Decoder:
    """A decoder of equal layers; the numbers are the family's, where a config leaves them out."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=n_kv_heads, d_head=d_head)
    n_ctx = config.size("max_position_embeddings", default=n_ctx)
    positions = rotary(config, d_head, n_ctx)
    bias = config.flag("attention_bias", default=bias)
    norm = RMSNorm(config.number("rms_norm_eps", default=eps, at_least=0.0))
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, bias=bias, out_bias=bias)
    mlp = gated_mlp(config, bias=config.flag("mlp_bias", default=mlp_bias))
    return decoder(config, Layer(mixer, mlp, ln1=norm, ln2=norm), norm, positions.scaling.reach(n_ctx))
