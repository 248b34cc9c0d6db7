"""Granite 4 (H-Micro to H-Small), and everything else that ships as ``model_type: granitemoehybrid``.

Traits: Granite with Mamba-2 in most layers and attention in some, which has no positions; a dense MLP, or experts and
a shared one. Source: IBM 2025, Granite 4.0; transformers 5.24, models/granitemoehybrid.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.hookspecs import hookimpl
from mi_decoder.examples import TINY
from mi_decoder.fused import side_by_side
from mi_decoder.granite import granite_attention, granite_decoder
from mi_decoder.granite_moe import granite_moe_decoder, granite_moe_names
from mi_decoder.moe_config import LEARNING_TO_ROUTE
from mi_decoder.parts import Mixer
from mi_decoder.translation import LLAMA_NAMES, Source, blueprint, gated_mlp
from mi_recurrent import Mamba2
from mi_recurrent.mamba_config import check_heads, mamba2_names, step_limits

__all__ = ["mi_family", "mi_family_examples"]

KINDS: Mapping[str, bool] = {"mamba": True, "linear_attention": True, "attention": False, "full_attention": False}
"""What files call layers -> whether these are recurrent."""
INERT = {
    **LEARNING_TO_ROUTE,
    "mamba_chunk_size": "which kernel the reference uses",
    "num_experts_per_tok": "of experts, where there are any",
}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of recurrent layers and attention, with experts or without."""
    attention, reach = granite_attention(config)
    if config.choice("position_embedding_type", ("rope", "nope"), default="nope") != "rope":
        attention = replace(attention, positions=None)
    net, recurrent = mixer_of(config), recurrent_layers(config)
    shared = config.size("shared_intermediate_size", default=1024)

    def mixer(index: int) -> Mixer:
        return net if recurrent[index] else attention

    if config.size("num_local_experts", default=8, at_least=0):
        model = granite_moe_decoder(config, (mixer, reach), shared=shared)
        names = granite_moe_names(config, shared=shared)
    else:
        model = granite_decoder(config, (mixer, reach), replace(gated_mlp(config), d_mlp=shared))
        names = dense_names(shared)
    tied = config.flag("tie_word_embeddings", default=False)
    both = {**names, **mamba2_names(net, "model.layers.*.mamba")}
    return blueprint(model, tensors, tied=tied, names=both, inert=INERT)


def dense_names(d_mlp: int) -> Mapping[str, Source]:
    """Both branches of the MLP lie in one tensor."""
    part = "model.layers.*.shared_mlp"
    gate, linear = ((f"{part}.input_linear", view) for view in side_by_side([d_mlp, d_mlp]))
    own: dict[str, Source] = {"layers.*.channel.gate": gate, "layers.*.channel.in": linear}
    return {**LLAMA_NAMES, **own, "layers.*.channel.out": f"{part}.output_linear"}


def mixer_of(config: Config) -> Mamba2:
    """The mixer of recurrent layers.

    Raises:
        BadConfig: heads that do not fill the width, or that groups do not divide.
    """
    n_heads, n_groups = config.size("mamba_n_heads", default=128), config.size("mamba_n_groups", default=1)
    d_inner = config.size("mamba_expand", default=2) * config.size("hidden_size")
    auto = config.get("mamba_d_head", "auto") == "auto"
    d_value = d_inner // n_heads if auto else config.size("mamba_d_head")
    mixer = Mamba2(
        n_heads,
        d_value,
        config.size("mamba_d_state", default=256),
        n_groups,
        config.size("mamba_d_conv", default=4, at_least=2),
        bias=config.flag("mamba_proj_bias", default=False),
        conv_bias=config.flag("mamba_conv_bias", default=True),
        eps=config.number("rms_norm_eps", default=1e-6, at_least=0.0),
        limits=step_limits(config),
    )
    check_heads(config, mixer, d_inner, "mamba_n_heads")
    return mixer


def recurrent_layers(config: Config) -> list[bool]:
    """Which layers are recurrent; all, where the config does not say.

    Raises:
        BadConfig: another number of layers than there are, or an unknown kind.
    """
    n_layers = config.size("num_hidden_layers")
    kinds: Any = config.get("layer_types") or ["mamba"] * n_layers
    if not isinstance(kinds, list) or len(kinds) != n_layers or any(kind not in KINDS for kind in kinds):
        raise BadConfig(
            f"{config.where}: 'layer_types' is {kinds!r}, it must be a list of {n_layers} of {', '.join(KINDS)}.",
            path=config.where,
            key="layer_types",
        )
    return [KINDS[kind] for kind in kinds]


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: experts, groups and every multiplier; dense, with positions and biases, tied."""
    tiny = {"model_type": "granitemoehybrid", **TINY, "num_hidden_layers": 2, "mamba_n_heads": 4, "mamba_d_state": 8}
    tiny |= {"shared_intermediate_size": 24, "mamba_d_head": 16}
    multipliers = {"embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.3}
    return (
        tiny
        | multipliers
        | {"num_local_experts": 6, "num_experts_per_tok": 3, "intermediate_size": 20, "mamba_n_groups": 2}
        | {"layer_types": ["linear_attention", "full_attention"], "logits_scaling": 4.0},
        tiny
        | {"num_local_experts": 0, "attention_bias": True, "mamba_proj_bias": True, "tie_word_embeddings": True}
        | {"layer_types": ["full_attention", "linear_attention"], "position_embedding_type": "rope"},
    )
