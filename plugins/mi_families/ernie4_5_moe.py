"""ERNIE 4.5 with experts (21B-A3B, 300B-A47B), and everything else that ships as ``model_type: ernie4_5_moe``.

Traits: ERNIE 4.5 with mixtures of experts in most layers; a bias takes part in their choice, and a shared MLP reads
every token. Source: ERNIE Team 2025, ERNIE 4.5 Technical Report; transformers 5.24, models/ernie4_5_moe.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Experts, GatedMLP, Layer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.moe_config import LEARNING_TO_ROUTE, gate, moe_names
from mi_decoder.rope_config import rotary
from mi_decoder.routing import TopK
from mi_decoder.translation import COMPUTED, LLAMA_NAMES, blueprint, decoder, gated_mlp, heads

__all__ = ["mi_family", "mi_family_examples"]

INERT = {**LEARNING_TO_ROUTE, "moe_capacity": "for training", "moe_gate": "for training", "moe_use_aux_free": "a note"}
WIDE = ("*.router_weight", "*.selection_bias")
DROPPED = {**COMPUTED, "model.mtp_*": "predicts further tokens, for training"}


def flat(tensor: Tensor) -> Tensor:
    """A bias that is stored as one row."""
    return tensor[0]


NAMES = {
    **LLAMA_NAMES,
    **moe_names(shared="shared_experts"),
    "layers.*.channel.selection_bias": ("model.layers.*.mlp.moe_statics.e_score_correction_bias", flat),
}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder with experts from one layer to another, in steps."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=4)
    n_ctx = config.size("max_position_embeddings", default=131072)
    positions = rotary(config, d_head, n_ctx, theta=500000.0, interleaved=True, wide=True)
    bias = config.flag("use_bias", default=False)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-5, at_least=0.0))
    mixer = Attention(n_heads, n_kv_heads, d_head, positions, bias=bias, out_bias=bias)
    dense, experts = gated_mlp(config, bias=bias), mixture(config, bias)
    start, step = (
        config.size("moe_layer_start_index", default=1, at_least=0),
        config.size("moe_layer_interval", default=1),
    )
    end = config.size("moe_layer_end_index", default=-1, at_least=-1)
    end = config.size("num_hidden_layers") - 1 if end == -1 else end

    def layer(index: int) -> Layer:
        sparse = start <= index <= end and (index + 1) % step == 0
        return Layer(mixer, experts if sparse else dense, ln1=norm, ln2=norm)

    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx), unembed_bias=bias)
    tied = config.flag("tie_word_embeddings", default=True)
    return blueprint(model, tensors, tied=tied, names=NAMES, dropped=DROPPED, inert=INERT, wide=WIDE)


def mixture(config: Config, bias: bool) -> Experts:
    """The experts of a layer, and the shared MLP."""
    neurons, d_mlp = gate(config), config.size("moe_intermediate_size", default=1536)
    shared = config.size("moe_num_shared_experts", default=2, at_least=0)
    floor = config.number("moe_norm_min", default=1e-12, at_least=0.0)
    return Experts(
        n_experts=config.size("moe_num_experts", default=64),
        d_mlp=d_mlp,
        routing=TopK(config.size("moe_k", default=6), normalise=True, floor=floor),
        neurons=neurons,
        shared=GatedMLP(d_mlp * shared, neurons.activation, bias=bias) if shared else None,
        selection_bias=True,
        wide_router=True,
        rounded=True,
    )


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: biases and a dense first layer; steps and no shared MLP, in the older spelling."""
    tiny = {"model_type": "ernie4_5_moe", **TINY, "num_hidden_layers": 2, "moe_num_experts": 6, "moe_k": 3}
    tiny |= {"moe_intermediate_size": 20, "head_dim": 12}
    return (
        tiny | {"use_bias": True, "tie_word_embeddings": False},
        tiny
        | {"moe_layer_start_index": 0, "moe_layer_interval": 2, "moe_num_shared_experts": 0, "rope_theta": 1e3}
        | {"moe_norm_min": 0.5},
    )
