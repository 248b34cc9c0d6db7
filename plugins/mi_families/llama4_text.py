"""LLaMA 4's text decoder (Scout, Maverick), which ships as ``model_type: llama4_text``.

Traits: rotary layers that see their own stretch of the row, with norms behind the rotation, and full ones without
positions whose queries grow; experts whose inputs are weighted, and a shared one. Source: Meta 2025, The Llama 4 herd;
transformers 5.24, models/llama4.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, Experts, GatedMLP, HeadNorm, Layer, NoGain, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.experts import Gated
from mi_decoder.fused import EachExpert
from mi_decoder.kernels import Chunk
from mi_decoder.moe_config import LEARNING_TO_ROUTE, gate
from mi_decoder.rope_config import rotary
from mi_decoder.routing import TopK
from mi_decoder.temperature import Temperature
from mi_decoder.translation import LLAMA_NAMES, Source, blueprint, decoder, heads, or_none

__all__ = ["mi_family", "mi_family_examples"]

PART = "model.layers.*.feed_forward"
MLP = {"gate": "gate_proj", "in": "up_proj", "out": "down_proj"}
NAMES: Mapping[str, Source] = {
    **LLAMA_NAMES,
    **{f"layers.*.channel.{ours}": f"{PART}.{theirs}" for ours, theirs in MLP.items()},
    **{f"layers.*.channel.shared.{ours}": f"{PART}.shared_expert.{theirs}" for ours, theirs in MLP.items()},
    "layers.*.channel.router": f"{PART}.router",
    # trap: matrices lie [expert, in, out]
    "layers.*.channel.experts.*.gate_weight": (f"{PART}.experts.gate_up_proj", EachExpert(lambda t: t.T.chunk(2)[0])),
    "layers.*.channel.experts.*.in_weight": (f"{PART}.experts.gate_up_proj", EachExpert(lambda t: t.T.chunk(2)[1])),
    "layers.*.channel.experts.*.out_weight": (f"{PART}.experts.down_proj", EachExpert(lambda t: t.T)),
}
INERT = {**LEARNING_TO_ROUTE, "for_llm_compressor": "a note of another tool", "layer_types": "no_rope_layers says it"}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers differ in their positions, and in whether they have experts."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=8, d_head=128)
    n_ctx, n_layers = config.size("max_position_embeddings", default=131072), config.size("num_hidden_layers")
    positions = rotary(config, d_head, n_ctx, theta=500000.0, interleaved=True, wide=True)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-5, at_least=0.0))
    bias, values = config.flag("attention_bias", default=False), temperature(config)
    chunk = config.size("attention_chunk_size", default=or_none(config, "attention_chunk_size", 8192))
    interval = config.size("no_rope_layer_interval", default=4)
    turned = config.get("no_rope_layers") or [(index + 1) % interval for index in range(n_layers)]
    if not isinstance(turned, list) or len(turned) != n_layers:
        raise BadConfig(
            f"{config.where}: 'no_rope_layers' is {turned!r}, it must be a list of {n_layers}.", path=config.where
        )
    late = HeadNorm(RMSNorm(norm.eps, NoGain()), late=True) if config.flag("use_qk_norm", default=True) else None
    near: dict[str, Any] = {"positions": positions, "qk_norm": late, "window": None if chunk is None else Chunk(chunk)}
    neurons, sparse = gate(config), moe_layers(config, n_layers)
    experts = mixture(config, neurons)
    dense = GatedMLP(config.size("intermediate_size_mlp", default=16384), neurons.activation)

    def layer(index: int) -> Layer:
        own = near if turned[index] else values
        mixer = Attention(n_heads, n_kv_heads, d_head, bias=bias, out_bias=bias, **own)
        return Layer(mixer, experts if index in sparse else dense, ln1=norm, ln2=norm)

    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    return blueprint(model, tensors, tied=config.flag("tie_word_embeddings", default=False), names=NAMES, inert=INERT)


def temperature(config: Config) -> dict[str, Any]:
    """How queries of layers without positions grow."""
    strength = config.number("attn_scale", default=0.1)
    period = config.number("floor_scale", default=8192, at_least=1.0)
    tuned = config.flag("attn_temperature_tuning", default=True)
    return {"temperature": Temperature(strength, period, "columns")} if tuned else {}


def moe_layers(config: Config, n_layers: int) -> list[int]:
    """The layers that have experts: by list, or in equal steps. Source: transformers 5.24, Llama4TextConfig."""
    step = config.size("interleave_moe_layer_step", default=1)
    found = config.get("moe_layers")
    return list(range(step - 1, n_layers, step)) if found is None else list(found)


def mixture(config: Config, neurons: Gated) -> Experts:
    """The experts of a layer, and the shared one."""
    d_mlp = config.size("intermediate_size")
    return Experts(
        n_experts=config.size("num_local_experts", default=16),
        d_mlp=d_mlp,
        routing=TopK(config.size("num_experts_per_tok", default=1), score="sigmoid"),
        neurons=neurons,
        shared=GatedMLP(d_mlp, neurons.activation),
        rounded=True,
        weighs_input=True,
    )


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: stretches, positions and growth in turn; every layer with experts, two of them for each token."""
    tiny = {"model_type": "llama4_text", **TINY, "num_hidden_layers": 3, "head_dim": 12, "num_local_experts": 6}
    tiny |= {"intermediate_size": 20, "intermediate_size_mlp": 40, "attention_chunk_size": 4}
    # the reference counts columns, pads included: it grows behind the rows that are compared with pads
    return (
        tiny
        | {"no_rope_layer_interval": 2, "interleave_moe_layer_step": 2, "floor_scale": 13, "attn_scale": 0.5}
        | {"rope_theta": 1e4, "num_experts_per_tok": 1},
        tiny
        | {"no_rope_layers": [1, 1, 0], "num_experts_per_tok": 2, "use_qk_norm": False, "attention_bias": True}
        | {"attn_temperature_tuning": False, "rope_theta": 1e3, "tie_word_embeddings": True, "rms_norm_eps": 1e-6},
    )
