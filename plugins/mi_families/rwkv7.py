"""RWKV-7 ("Goose"), in the layout of flash-linear-attention and in the original one.

Traits: no attention, a state per head with removal and write, low-rank maps for decay, removal, value mix and gate,
layer norms with biases, a norm on the embedding. Sizes come from the tensors where there are any.
Source: Peng et al. 2025, arXiv:2503.14456; flash-linear-attention 0.6, models/rwkv7; the package rwkv
0.8.32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mi_core.blueprint import Blueprint, Weight
from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.hookspecs import hookimpl
from mi_core.tensors import TensorIndex
from mi_decoder import Decoder, LayerNorm
from mi_decoder.stateful import StatefulLayer
from mi_recurrent import ChannelMix, RWKV7TimeMix
from mi_recurrent.checkpoints import blueprint, refuse_other_versions, shape_of
from mi_recurrent.layouts import FLASH, ORIGINAL_7, Layout, is_original
from mi_recurrent.original import head_size_of, sizes_of

__all__ = ["mi_config", "mi_family", "mi_family_examples"]

VERSION = "RWKV-7"
ORIGINAL_EPS = 64e-5
"""Of the norm over each head in the original code, whatever the head's size."""
DROPPED = {f"blocks.0.att.v{digit}": "the first layer has no value mix" for digit in "012"}

INERT = {
    "attn_mode": "which kernel the reference uses",
    "fuse_cross_entropy": "how the reference computes its loss",
    "fuse_linear_cross_entropy": "how the reference computes its loss",
    "use_l2warp": "a term of the training loss",
    "max_position_embeddings": "there are no position embeddings, and no limit",
    "head_dim": "read from the tensors where they disagree",
    "hidden_ratio": "the width of the channel part is read from the tensors, or from intermediate_size",
    **dict.fromkeys(
        ("decay_low_rank_dim", "a_low_rank_dim", "v_low_rank_dim", "gate_low_rank_dim", "num_heads"),
        "read from the tensors",
    ),
}
RANKED = {"w": "decay", "a": "a", "v": "v", "g": "gate"}
"""The low-rank maps, and what configs call them."""
MIXES = "rwkvag"
"""The order in which old checkpoints stack the token shift's mixes."""


@hookimpl
def mi_family(config: Config, tensors: TensorIndex | None) -> Blueprint:
    """A decoder of recurrent layers; the first has no value mix."""
    refuse_other_versions(tensors, VERSION, config)
    refuse_variants(config)
    original = is_original(tensors)
    names = ORIGINAL_7 if original else FLASH
    d_model, eps = config.size("hidden_size"), config.number("norm_eps", default=1e-5, at_least=0.0)
    # null: as the layout's own code has it
    stated_eps = config.number("head_norm_eps", default=ORIGINAL_EPS if original else None, at_least=0.0)
    norm = LayerNorm(eps)

    def layer(index: int) -> StatefulLayer:
        n_heads, d_mlp, ranks = sizes(config, tensors, names, index)
        mixer = RWKV7TimeMix(
            n_heads,
            *ranks,
            # Source: flash-linear-attention 0.6: GroupNorm(eps=head_dim * norm_eps)
            eps=d_model // n_heads * eps if stated_eps is None else stated_eps,
            fused_norm=config.flag("fuse_norm", default=not original),
        )
        return StatefulLayer(mixer, ChannelMix(d_mlp, gated=False, weighs="previous", shape=()), norm, norm)

    model = Decoder(
        d_vocab=config.size("vocab_size"),
        d_model=d_model,
        layers=tuple(layer(index) for index in range(config.size("num_hidden_layers"))),
        ln_final=norm,
        embed_norm=norm,
    )
    stacked = tensors is not None and "model.layers.0.attn.x_x" in tensors
    return blueprint(
        model.build,
        stacked_source if stacked else names,
        tensors,
        tied=config.flag("tie_word_embeddings", default=False),
        inert=INERT,
        dropped=DROPPED if original else None,
    )


@hookimpl
def mi_config(tensors: TensorIndex) -> Mapping[str, Any] | None:
    """Of an original file: all sizes are in its tensors, and the constants in its code."""
    found = sizes_of(tensors, VERSION)
    if found is None:
        return None
    head = {"head_dim": head_size_of(tensors, "r_k"), "head_norm_eps": ORIGINAL_EPS, "fuse_norm": False}
    ranks = ranks_of(tensors, ORIGINAL_7, 1 if found["num_hidden_layers"] > 1 else 0, found["hidden_size"])
    known = {f"{name}_low_rank_dim": rank for name, rank in zip(RANKED.values(), ranks, strict=True)}
    return {"model_type": "rwkv7", **found, "norm_eps": 1e-5, **head, **known}


def refuse_variants(config: Config) -> None:
    """Refuses what this layout can express and nobody has released.

    Raises:
        BadConfig: attention layers among the recurrent ones, wider values, another activation, other norms.
    """
    d_model = config.size("hidden_size")
    width = config.get("value_dim")
    wider = {int(n) for n in (width if isinstance(width, list) else [width]) if n is not None} - {d_model}
    wanted: Mapping[str, tuple[Any, ...]] = {"hidden_act": ("sqrelu", None), "norm_first": (True, None)}
    wanted = {**wanted, "norm_bias": (True, None), "attn": (None,)}
    for key, values in wanted.items():
        if config.get(key) not in values:
            raise BadConfig(
                f"{config.where}: {key!r} is {config.get(key)!r}; only {values[0]!r} is computed, so this variant of "
                "RWKV-7 cannot be run.",
                path=config.where,
                key=key,
            )
    if wider:
        raise BadConfig(
            f"{config.where}: 'value_dim' is {width!r}; values as wide as 'hidden_size' ({d_model}) are computed, "
            "others are not.",
            path=config.where,
            key="value_dim",
        )


def sizes(
    config: Config, tensors: TensorIndex | None, names: Layout, index: int
) -> tuple[int, int, tuple[int, int, int | None, int]]:
    """Heads, width of the channel part, and ranks of a layer: from the tensors, or from the config alone."""
    d_model = config.size("hidden_size")
    if tensors is None:
        d_mlp = config.size("intermediate_size", default=int(d_model * config.number("hidden_ratio", default=4.0)))
        n_heads = d_model // config.size("head_dim", default=64)
        ranks = tuple(config.size(f"{name}_low_rank_dim") for name in RANKED.values())
    else:
        config.get("intermediate_size")
        d_mlp = shape_of(tensors, names.name(f"blocks.{index}.channel.key_weight"))[0]
        n_heads = shape_of(tensors, names.name(f"blocks.{index}.mixer.r_k"))[0]
        ranks = ranks_of(tensors, names, index, d_model)
    if n_heads == 0 or d_model % n_heads:
        raise BadConfig(
            f"{config.where}: 'hidden_size' is {d_model!r}, which {n_heads} heads do not divide.",
            path=config.where,
            key="hidden_size",
        )
    decay, a, v, gate = ranks
    return n_heads, d_mlp, (decay, a, v if index else None, gate)


def ranks_of(tensors: TensorIndex, names: Layout, index: int, d_model: int) -> tuple[int, ...]:
    """Of decay, removal, value mix (1 in the first layer, which has none) and gate."""
    maps = {letter: names.name(f"blocks.{index}.mixer.{letter}_down_weight") for letter in RANKED}
    # a map is [rank, d_model] or the other way round
    return tuple(
        1 if letter == "v" and not index else math.prod(shape_of(tensors, name)) // d_model
        for letter, name in maps.items()
    )


def stacked_source(parameter: str) -> str | Weight:
    """Where a parameter of an old checkpoint comes from, whose mixes are one tensor."""
    where, _, leaf = parameter.rpartition(".x_")
    if not where:
        return FLASH(parameter)
    row = MIXES.index(leaf)
    return Weight.of(FLASH.name(f"{where}.x_x"), view=lambda mixes: one_mix(mixes, row))


def one_mix(mixes: Tensor, row: int) -> Tensor:
    """One of the stacked mixes."""
    return mixes[row].reshape(1, 1, -1)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: one head and several, both ways to normalise the removal key, tied."""
    tiny = {
        "model_type": "rwkv7",
        "vocab_size": 61,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "head_dim": 8,
        "decay_low_rank_dim": 6,
        "a_low_rank_dim": 5,
        "v_low_rank_dim": 4,
        "gate_low_rank_dim": 7,
        "norm_eps": 1e-5,
        "fuse_norm": False,
    }
    return (tiny, tiny | {"head_dim": 32, "num_hidden_layers": 2, "fuse_norm": True, "tie_word_embeddings": True})
