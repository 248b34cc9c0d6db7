"""Phi-3.5-MoE and Phi-mini-MoE, and everything else that ships as ``model_type: phimoe``.

Traits: layer norms and biases around LLaMA's attention; two experts for each token, each weighted among those that come
close to it; rotary positions whose size depends on the row's length. Source: Abdin et al. 2024, arXiv:2404.14219;
transformers 5.24, models/phimoe.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_core.protocols import Batch
from mi_decoder import Attention, Experts, Layer, LayerNorm, Rotary
from mi_decoder.examples import TINY
from mi_decoder.moe_config import LEARNING_TO_ROUTE, expert_names, gate
from mi_decoder.rope_config import rope_values, rotary
from mi_decoder.rope_scalings import LongRope
from mi_decoder.routing import SparseMixer
from mi_decoder.translation import LLAMA_NAMES, blueprint, decoder, heads, or_none

__all__ = ["LengthScaled", "mi_family", "mi_family_examples"]

MOE = "model.layers.*.block_sparse_moe"
NAMES = {
    **LLAMA_NAMES,
    "layers.*.channel.router": f"{MOE}.gate",
    **expert_names(f"{MOE}.experts", gate="w1", linear="w3", out="w2"),
}
INERT = {key: why for key, why in LEARNING_TO_ROUTE.items() if key != "router_jitter_noise"}
INERT |= {f"rope_{at}.long_factor": "the reference never turns by it" for at in ("scaling", "parameters")}


@dataclass(frozen=True)
class LengthScaled(Rotary):
    """Rotary positions that are multiplied by one number in short rows and by another in long ones.

    Trap: the reference turns long rows by the short divisors too. Source: transformers 5.24, PhimoeRotaryEmbedding.
    """

    short_size: float = 1.0
    long_size: float = 1.0

    @classmethod
    def of(cls, rotary: Rotary, scaling: LongRope, short_size: float, long_size: float) -> LengthScaled:
        """The same positions, with sizes."""
        values = {field.name: getattr(rotary, field.name) for field in fields(rotary)}
        always = replace(scaling, long=scaling.short, attention_factor=1.0)
        return cls(**{**values, "scaling": always}, short_size=short_size, long_size=long_size)

    def table(
        self, batch: Batch, dtype: torch.dtype
    ) -> tuple[Float[Tensor, "batch pos 1 n_dims"], Float[Tensor, "batch pos 1 n_dims"]]:
        """Cosine and sine, multiplied in float32."""
        if batch.parts:
            return super().table(batch, dtype)  # which asks for each part's own
        cos, sin = super().table(batch, torch.float32)
        is_long = self.scaling.regime(batch.total)
        assert is_long is not None
        size = torch.where(is_long, self.long_size, self.short_size).float()[:, None, None, None]
        return (cos * size).to(dtype), (sin * size).to(dtype)


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=8)
    n_ctx = config.size("max_position_embeddings", default=131072)
    positions, rope = rotary(config, d_head, n_ctx, theta=1e6), rope_values(config)
    if isinstance(positions.scaling, LongRope):
        sizes = rope.number("short_mscale"), rope.number("long_mscale")
        positions = LengthScaled.of(positions, positions.scaling, *sizes)
    window = config.size("sliding_window", default=or_none(config, "sliding_window", None))
    bias = config.flag("attention_bias", default=False)
    norm = LayerNorm(config.number("rms_norm_eps", default=1e-5, at_least=0.0))
    experts = Experts(
        n_experts=config.size("num_local_experts", default=16),
        d_mlp=config.size("intermediate_size"),
        routing=SparseMixer(
            config.number("router_jitter_noise", default=0.01),
            config.size("num_experts_per_tok", default=2, at_least=2, at_most=2),
        ),
        neurons=gate(config),
    )
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, bias=bias, out_bias=bias, window=window)
    head = {"unembed_bias": config.flag("lm_head_bias", default=False)}
    layer = Layer(mixer, experts, ln1=norm, ln2=norm)
    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx), **head)
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=NAMES, inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: long rows, every bias, experts that come close; short rows and a window, in the older spelling."""
    tiny = {"model_type": "phimoe", **TINY, "num_hidden_layers": 2, "num_local_experts": 6, "intermediate_size": 20}
    ramp = [1.0 + 0.2 * pair for pair in range(4)]
    rope = {"rope_type": "longrope", "short_factor": ramp, "long_factor": [2.0] * 4, "rope_theta": 1e4}
    rope |= {"short_mscale": 1.2, "long_mscale": 0.8, "original_max_position_embeddings": 4}
    short = {key: value for key, value in rope.items() if key != "rope_theta"}
    short |= {"original_max_position_embeddings": 64}
    return (
        tiny | {"rope_parameters": rope, "attention_bias": True, "lm_head_bias": True, "router_jitter_noise": 2.0},
        tiny
        | {"rope_theta": 1e3, "rope_scaling": short, "sliding_window": 4, "rms_norm_eps": 1e-6, "num_local_experts": 3},
    )
