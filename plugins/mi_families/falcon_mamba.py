"""Falcon Mamba (7B), and everything else that ships as ``model_type: falcon_mamba``.

Traits: Mamba with norms without gains over step sizes, B and C.
Source: Zuo et al. 2024, arXiv:2410.05355; transformers 5.24, models/falcon_mamba.
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
from mi_recurrent.mamba_config import INERT, selective, selective_names

__all__ = ["mi_family", "mi_family_examples"]


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of mixers alone."""
    norm = RMSNorm(config.number("layer_norm_epsilon", default=1e-5, at_least=0.0))
    mixer, wide = (
        selective(config, norm_eps=config.number("mixer_rms_eps", default=1e-6, at_least=0.0)),
        config.flag("residual_in_fp32", default=True),
    )
    model = decoder(config, AttentionLayer(mixer, norm, wide), norm, None, wide_stream=wide)
    tied = config.flag("tie_word_embeddings", default=True)
    return blueprint(model, tensors, tied=tied, names=selective_names(mixer), prefix="backbone.", inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: as published; biases, no bias of the convolution, an unembedding of its own."""
    tiny = {"model_type": "falcon_mamba", "vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8}
    return (
        tiny,
        tiny
        | {"expand": 3, "conv_kernel": 3, "use_bias": True, "use_conv_bias": False, "time_step_rank": 3}
        | {"tie_word_embeddings": False},
    )
