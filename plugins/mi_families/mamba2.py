"""Mamba-2 (Codestral Mamba and others), and everything else that ships as ``model_type: mamba2``.

Traits: no attention and no MLP; heads with a state that decays as a whole, a short convolution, a norm behind the gate.
Source: Dao and Gu 2024, arXiv:2405.21060; transformers 5.24, models/mamba2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import RMSNorm
from mi_decoder.attention_only import AttentionLayer
from mi_decoder.translation import blueprint, decoder
from mi_recurrent import Mamba2
from mi_recurrent.mamba_config import INERT, MAMBA_NAMES, check_heads, mamba2_names, step_limits

__all__ = ["mi_family", "mi_family_examples"]


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of mixers alone."""
    norm = RMSNorm(config.number("layer_norm_epsilon", default=1e-5, at_least=0.0))
    mixer, wide = mixer_of(config, norm.eps), config.flag("residual_in_fp32", default=True)
    model = decoder(config, AttentionLayer(mixer, norm, wide), norm, None, wide_stream=wide)
    names = {**MAMBA_NAMES, **mamba2_names(mixer, "backbone.layers.*.mixer")}
    tied = config.flag("tie_word_embeddings", default=False)
    inert = {**INERT, "time_step_rank": "there are step sizes for each head, from the input itself"}
    return blueprint(model, tensors, tied=tied, names=names, prefix="backbone.", inert=inert)


def mixer_of(config: Config, eps: float) -> Mamba2:
    """The mixer of a layer.

    Raises:
        BadConfig: heads that do not fill the width, or that groups do not divide.
    """
    n_heads, d_value = config.size("num_heads", default=128), config.size("head_dim", default=64)
    n_groups, d_inner = (
        config.size("n_groups", default=8),
        config.size("expand", default=2) * config.size("hidden_size"),
    )
    config.choice("hidden_act", ("silu",), default="silu")
    mixer = Mamba2(
        n_heads,
        d_value,
        config.size("state_size", default=128),
        n_groups,
        config.size("conv_kernel", default=4, at_least=2),
        bias=config.flag("use_bias", default=False),
        conv_bias=config.flag("use_conv_bias", default=True),
        eps=eps,
        limits=step_limits(config),
    )
    check_heads(config, mixer, d_inner, "num_heads")
    return mixer


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: groups and limits; one group, biases, no bias of the convolution, tied."""
    tiny = {"model_type": "mamba2", "vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8}
    return (
        tiny | {"num_heads": 4, "head_dim": 16, "n_groups": 2, "time_step_limit": [0.1, 0.9]},
        tiny
        | {"num_heads": 8, "head_dim": 8, "n_groups": 1, "conv_kernel": 3, "use_bias": True, "use_conv_bias": False}
        | {"tie_word_embeddings": True},
    )
