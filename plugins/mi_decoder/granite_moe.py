"""Granite's decoder with mixtures of experts, with and without a shared one.

Source: IBM 2024, Granite 3.0 Language Models; transformers 5.24, models/granitemoe and models/granitemoeshared.
"""

from __future__ import annotations

from collections.abc import Mapping

from mi_core.config import Config
from mi_decoder.decoder import Decoder
from mi_decoder.experts import Experts
from mi_decoder.fused import EachExpert, side_by_side
from mi_decoder.granite import Everywhere, granite_attention, granite_decoder
from mi_decoder.mlp import GatedMLP
from mi_decoder.moe_config import gate
from mi_decoder.routing import ChosenSoftmax
from mi_decoder.translation import LLAMA_NAMES, Source

__all__ = ["granite_moe_decoder", "granite_moe_names"]


def granite_moe_decoder(config: Config, attention: Everywhere | None = None, *, shared: int = 0) -> Decoder:
    """A decoder of equal layers, or of such ``attention``; ``shared`` is the width of the shared expert, 0 for none."""
    neurons = gate(config)
    experts = Experts(
        n_experts=config.size("num_local_experts", default=8),
        d_mlp=config.size("intermediate_size"),
        routing=ChosenSoftmax(config.size("num_experts_per_tok", default=2)),
        neurons=neurons,
        shared=GatedMLP(shared, neurons.activation) if shared else None,
        rounded=True,
    )
    return granite_decoder(config, attention or granite_attention(config), experts)


def granite_moe_names(config: Config, *, shared: int = 0) -> Mapping[str, Source]:
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
