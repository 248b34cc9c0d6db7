"""Configs of small models from a family's name and the field's names of sizes: ``n_layers=2, d_model=64, ...``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.families import family_of

__all__ = ["toy_config"]

SPELLINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "n_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "d_model": ("hidden_size", "n_embd", "d_model"),
    "n_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "n_kv_heads": ("num_key_value_heads",),
    "d_head": ("head_dim", "d_head"),
    "d_mlp": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_mlp"),
    "d_vocab": ("vocab_size", "d_vocab"),
    "n_ctx": ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx"),
    "n_experts": ("num_local_experts", "num_experts", "n_routed_experts"),
}
"""The config keys that say each size, in one family or another."""
SMALL: Final[Mapping[str, int]] = {"n_layers": 2, "d_model": 64, "n_heads": 4, "d_vocab": 128, "n_ctx": 256}


def toy_config(model_type: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a small model: the sizes that are given, small ones where they are not, the family's defaults else.

    What is no size is a config key as it is: ``tie_word_embeddings=False``.

    Raises:
        UnknownFamily: no installed plugin reads that model_type.
        BadConfig: the family has no such size.

    >>> config = toy_config("gpt2", {"n_layers": 3, "d_mlp": 48})
    >>> config["n_layer"], config["n_embd"], config["n_inner"]
    (3, 64, 48)
    """
    family = family_of(Config({"model_type": model_type}, where="config"))
    known = {key for example in family.call("mi_family_examples") for key in example}
    keys = {size: next((key for key in spelled if key in known), None) for size, spelled in SPELLINGS.items()}
    config: dict[str, Any] = {"model_type": model_type}
    heads = given.get("n_heads", SMALL["n_heads"])
    wanted = {**SMALL, "d_mlp": 4 * given.get("d_model", SMALL["d_model"]), "n_kv_heads": heads, **given}
    for name, value in wanted.items():
        if name not in SPELLINGS:
            config[name] = value
        elif keys[name] is not None:
            config[str(keys[name])] = value
        elif name in given:
            there = ", ".join(size for size, key in keys.items() if key is not None)
            raise BadConfig(
                f"{name}={value!r}: the configs of {model_type!r} have no such size; they have {there}. Give a whole "
                "config for everything else.",
                key=name,
                model_type=model_type,
            )
    return config
