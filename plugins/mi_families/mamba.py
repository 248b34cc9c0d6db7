"""Mamba (130M to 2.8B), and everything else that ships as ``model_type: mamba``.

Traits: no attention and no MLP; every channel has a state of its own, whose numbers decay at their own rates; a short
convolution.
Source: Gu and Dao 2023, arXiv:2312.00752; transformers 5.24, models/mamba.
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
    mixer, wide = selective(config), config.flag("residual_in_fp32", default=True)
    model = decoder(config, AttentionLayer(mixer, norm, wide), norm, None, wide_stream=wide)
    tied = config.flag("tie_word_embeddings", default=True)
    return blueprint(model, tensors, tied=tied, names=selective_names(mixer), prefix="backbone.", inert=INERT)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: tied; biases, no bias of the convolution, an unembedding of its own."""
    tiny = {"model_type": "mamba", "vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 16}
    return (
        tiny | {"expand": 4},
        tiny
        | {
            "hidden_size": 48,
            "expand": 4,
            "conv_kernel": 3,
            "use_bias": True,
            "use_conv_bias": False,
            "time_step_rank": 3,
        }
        | {"tie_word_embeddings": False},
    )
