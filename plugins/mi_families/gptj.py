"""GPT-J, and everything else that ships as ``model_type: gptj``.

Traits: both parts of a layer side by side behind one layer norm, interleaved rotary positions over a part of each head.
Source: Wang and Komatsuzaki 2021, github.com/kingoflolz/mesh-transformer-jax; transformers 5.24, models/gptj.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder.gptj import GPTJ_DROPPED, GPTJ_INERT, GPTJ_NAMES, gptj_decoder
from mi_decoder.translation import blueprint, module_names

NAMES = {**GPTJ_NAMES, **module_names("transformer.h.*", {f"mixer.{name}": f"attn.{name}_proj" for name in "qkv"})}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    tied = config.flag("tie_word_embeddings", default=False)
    kept: dict[str, Any] = {"names": NAMES, "prefix": "transformer.", "dropped": GPTJ_DROPPED, "inert": GPTJ_INERT}
    return blueprint(gptj_decoder(config), tensors, tied=tied, **kept)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: a part of each head; whole heads and everything else."""
    tiny = {"model_type": "gptj", "vocab_size": 61, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
    return (
        tiny | {"rotary_dim": 4},
        tiny | {"rotary_dim": 8, "n_inner": 48, "activation_function": "relu", "layer_norm_epsilon": 1e-4},
    )
