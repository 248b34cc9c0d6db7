"""Granite's decoder with mixtures of experts, with and without a shared one.

Source: IBM 2024, Granite 3.0 Language Models; transformers 5.24, models/granitemoe and models/granitemoeshared.
"""

from __future__ import annotations

from collections.abc import Mapping

from mi_core.config import Config
from mi_decoder.attention import Attention
from mi_decoder.decoder import Decoder
from mi_decoder.experts import Experts
from mi_decoder.fused import EachExpert, side_by_side
from mi_decoder.layers import Layer
from mi_decoder.mlp import GatedMLP
from mi_decoder.moe_config import gate
from mi_decoder.norms import RMSNorm
from mi_decoder.rope_config import rotary
from mi_decoder.routing import ChosenSoftmax
from mi_decoder.translation import LLAMA_NAMES, Source, decoder, heads

__all__ = ["granite_moe_decoder", "granite_moe_names"]


def granite_moe_decoder(config: Config, shared: int = 0) -> Decoder:
    """A decoder of equal layers; ``shared`` is the width of the shared expert, 0 for none."""
    n_heads, n_kv_heads, d_head = heads(config)
    n_ctx = config.size("max_position_embeddings", default=2048)
    positions = rotary(config, d_head, n_ctx)
    bias = config.flag("attention_bias", default=False)
    scale = config.number("attention_multiplier", default=1.0)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-6, at_least=0.0))
    neurons = gate(config)
    experts = Experts(
        n_experts=config.size("num_local_experts", default=8),
        d_mlp=config.size("intermediate_size"),
        routing=ChosenSoftmax(config.size("num_experts_per_tok", default=2)),
        neurons=neurons,
        shared=GatedMLP(shared, neurons.activation) if shared else None,
        rounded=True,
    )
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, bias=bias, out_bias=bias, scale=scale)
    multiplier = config.number("residual_multiplier", default=1.0)
    outside = {
        "embed_scale": config.number("embedding_multiplier", default=1.0),
        "logit_scale": 1.0 / config.number("logits_scaling", default=1.0, at_least=1e-9),
    }
    layer = Layer(mixer, experts, ln1=norm, ln2=norm, multiplier=multiplier)
    return decoder(config, layer, norm, positions.scaling.reach(n_ctx), **outside)


def granite_moe_names(config: Config, shared: int = 0) -> Mapping[str, Source]:
    """All experts lie in one tensor, and both branches of an MLP behind each other.

    Source: transformers 5.24, conversion_mapping.py, granitemoe.
    """
    layer, d_mlp = "model.layers.*", config.size("intermediate_size")
    names: dict[str, Source] = {**LLAMA_NAMES, "layers.*.channel.router": f"{layer}.block_sparse_moe.router.layer"}
    both = f"{layer}.block_sparse_moe.input_linear"
    for name, view in zip(("gate", "in"), side_by_side([d_mlp, d_mlp]), strict=True):
        names[f"layers.*.channel.experts.*.{name}"] = (both, EachExpert(view))
    names["layers.*.channel.experts.*.out"] = (f"{layer}.block_sparse_moe.output_linear", EachExpert())
    for name, view in zip(("gate", "in"), side_by_side([shared, shared]), strict=True):
        names[f"layers.*.channel.shared.{name}"] = (f"{layer}.shared_mlp.input_linear", view)
    names["layers.*.channel.shared.out"] = f"{layer}.shared_mlp.output_linear"
    return names
