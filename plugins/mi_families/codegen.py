"""CodeGen, and everything else that ships as ``model_type: codegen``.

Traits: GPT-J with queries, values and keys of a quarter of the heads behind each other, in one matrix.
Source: Nijkamp et al. 2022, arXiv:2203.13474; transformers 5.24, models/codegen.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.hookspecs import hookimpl
from mi_decoder.fused import of_each_head
from mi_decoder.gptj import GPTJ_DROPPED, GPTJ_INERT, GPTJ_NAMES, gptj_decoder
from mi_decoder.translation import blueprint, fused_names

BLOCKS = 4
"""Source: transformers 5.24, CodeGenAttention (mp_num)."""


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder of equal layers."""
    model, n_heads = gptj_decoder(config), config.size("n_head")
    if n_heads % BLOCKS:
        raise BadConfig(f"{config.where}: 'n_head' is {n_heads!r}, it must divide by {BLOCKS}.", path=config.where)
    q, v, k = of_each_head(BLOCKS, model.d_model // BLOCKS)
    names = fused_names("mixer", "attn.qkv_proj", "qkv", [q, k, v], names=GPTJ_NAMES, layer="transformer.h.*")
    tied = config.flag("tie_word_embeddings", default=False)
    kept: dict[str, Any] = {"names": names, "prefix": "transformer.", "dropped": GPTJ_DROPPED, "inert": GPTJ_INERT}
    return blueprint(model, tensors, tied=tied, **kept)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: a part of each head; whole heads and everything else."""
    tiny = {"model_type": "codegen", "vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return (
        tiny | {"rotary_dim": 4},
        tiny
        | {"n_embd": 48, "n_head": 8, "rotary_dim": 6, "n_inner": 40, "activation_function": "relu"}
        | {"layer_norm_epsilon": 1e-4},
    )
