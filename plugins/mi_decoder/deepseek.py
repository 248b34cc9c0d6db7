"""What DeepSeek 2, DeepSeek 3 and the families that follow them share: latent attention from a config.

Source: DeepSeek-AI 2024, arXiv:2405.04434 and arXiv:2412.19437; transformers 5.24, models/deepseek_v2 and deepseek_v3.
"""

from __future__ import annotations

from collections.abc import Mapping

from mi_core.config import Config
from mi_decoder.latent_attention import LatentAttention, TailRotary
from mi_decoder.moe_config import moe_names
from mi_decoder.norms import RMSNorm
from mi_decoder.rope_config import magnitude, rope_values, rotary
from mi_decoder.translation import LLAMA_NAMES, Source, or_none

__all__ = ["LATENT_NAMES", "latent_attention"]

SIZES: Mapping[str, int] = {
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
}
"""What the reference takes for sizes that a config leaves out. Source: transformers 5.24, DeepseekV3Config."""

ATTN = "model.layers.*.self_attn"
LATENT_NAMES: Mapping[str, Source] = {
    **LLAMA_NAMES,
    "layers.*.mixer.q_down": f"{ATTN}.q_a_proj",
    "layers.*.mixer.q_latent_norm": f"{ATTN}.q_a_layernorm",
    "layers.*.mixer.q_up": f"{ATTN}.q_b_proj",
    "layers.*.mixer.kv_down": f"{ATTN}.kv_a_proj_with_mqa",
    "layers.*.mixer.kv_latent_norm": f"{ATTN}.kv_a_layernorm",
    "layers.*.mixer.kv_up": f"{ATTN}.kv_b_proj",
    **moe_names(shared="shared_experts"),
}


def latent_attention(
    config: Config, n_ctx: int, *, sizes: Mapping[str, int] = SIZES, interleaved: bool = True, wide: bool = False
) -> tuple[LatentAttention, int | None]:
    """Latent attention as a config describes it, and the positions that it reaches with ``n_ctx`` as the config's.

    ``sizes`` are the family's where keys are absent.

    Trap: the norms of latents have an epsilon of their own, and scores are scaled once more under YaRN.

    Source: transformers 5.24, DeepseekV3Attention, yarn_apply_mscale.
    """
    n_heads = config.size("num_attention_heads")
    config.size("num_key_value_heads", default=None)  # every head has keys and values of its own
    d_own = config.size("qk_nope_head_dim", default=sizes["qk_nope_head_dim"])
    d_shared = config.size("qk_rope_head_dim", default=sizes["qk_rope_head_dim"])
    for key in ("head_dim", "qk_head_dim"):
        config.size(key, default=None)  # copies of the two above
    positions = rotary(config, d_shared, n_ctx, interleaved=interleaved, wide=wide)
    bias = config.flag("attention_bias", default=False)
    mixer = LatentAttention(
        n_heads,
        n_heads,
        d_own + d_shared,
        TailRotary.of(positions),
        bias=bias,
        out_bias=bias,
        scale=(d_own + d_shared) ** -0.5 * score_factor(config),
        d_shared=d_shared,
        d_value=config.size("v_head_dim", default=sizes["v_head_dim"]),
        kv_rank=config.size("kv_lora_rank", default=sizes["kv_lora_rank"]),
        q_rank=config.size("q_lora_rank", default=or_none(config, "q_lora_rank", sizes["q_lora_rank"])),
        latent_norm=RMSNorm(1e-6),
    )
    return mixer, positions.scaling.reach(n_ctx)


def score_factor(config: Config) -> float:
    """What YaRN multiplies scores by, besides the factor on cosine and sine."""
    rope = rope_values(config)
    strength = rope.number("mscale_all_dim", default=0.0)
    if rope.get("rope_type", rope.get("type", "default")) == "default" or not strength:
        return 1.0
    factor: float = magnitude(rope.number("factor"), strength)
    return factor**2
