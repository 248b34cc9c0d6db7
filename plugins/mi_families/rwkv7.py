"""RWKV-7 ("Goose") in the layout of flash-linear-attention.

Traits: no attention, a state per head with removal and write, low-rank maps for decay, removal, value mix and gate,
layer norms with biases, a norm on the embedding. Sizes come from the tensors where there are any.
Source: Peng et al. 2025, arXiv:2503.14456; flash-linear-attention 0.6, models/rwkv7.
"""

from __future__ import annotations

import re
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

__all__ = ["mi_family", "mi_family_examples"]

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
ATTENTION = {
    "receptance": "r_proj.weight",
    "key": "k_proj.weight",
    "value": "v_proj.weight",
    "output": "o_proj.weight",
    "ln_x": "g_norm",
}
OUTSIDE = {"embed_weight": "model.embeddings.weight", "unembed_weight": "lm_head.weight"}
NORMS = {"embed_norm": "model.layers.0.pre_norm", "ln_final": "model.norm"}
MIXES = "rwkvag"
"""The order in which old checkpoints stack the token shift's mixes."""


@hookimpl
def mi_family(config: Config, tensors: TensorIndex | None) -> Blueprint:
    """A decoder of recurrent layers; the first has no value mix."""
    refuse_other_versions(tensors, "RWKV-7", config)
    refuse_variants(config)
    d_model, eps = config.size("hidden_size"), config.number("norm_eps", default=1e-5, at_least=0.0)
    norm = LayerNorm(eps)

    def layer(index: int) -> StatefulLayer:
        n_heads, d_mlp, ranks = sizes(config, tensors, index)
        mixer = RWKV7TimeMix(
            n_heads,
            *ranks,
            # Source: flash-linear-attention 0.6: GroupNorm(eps=head_dim * norm_eps)
            eps=d_model // n_heads * eps,
            fused_norm=config.flag("fuse_norm", default=True),
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
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model.build, lambda name: source(name, stacked=stacked), tensors, tied=tied, inert=INERT)


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


def sizes(config: Config, tensors: TensorIndex | None, index: int) -> tuple[int, int, tuple[int, int, int | None, int]]:
    """Heads, width of the channel part, and ranks of a layer: from the tensors, or from the config alone."""
    if tensors is None:
        width, head = config.size("hidden_size"), config.size("head_dim", default=64)
        d_mlp = config.size("intermediate_size", default=int(width * config.number("hidden_ratio", default=4.0)))
        ranks = [config.size(f"{name}_low_rank_dim") for name in ("decay", "a", "v", "gate")]
        n_heads = width // head
    else:
        config.get("intermediate_size")
        part = f"model.layers.{index}.attn"
        n_heads = shape_of(tensors, f"{part}.r_k")[0]
        d_mlp = shape_of(tensors, f"model.layers.{index}.ffn.key.weight")[0]
        ranks = [
            shape_of(tensors, f"{part}.{letter}_lora.lora.0.weight")[0] if index or letter != "v" else 0
            for letter in "wavg"
        ]
    if config.size("hidden_size") % n_heads:
        raise BadConfig(
            f"{config.where}: 'hidden_size' is {config.size('hidden_size')!r}, which {n_heads} heads do not divide.",
            path=config.where,
            key="hidden_size",
        )
    decay, a, v, gate = ranks
    return n_heads, d_mlp, (decay, a, v if index else None, gate)


def source(name: str, *, stacked: bool) -> str | Weight:
    """Where a parameter comes from."""
    if name in OUTSIDE:
        return OUTSIDE[name]
    where, _, leaf = name.rpartition(".")
    if where in NORMS:
        return f"{NORMS[where]}.{leaf}"
    _, index, part, *_ = name.split(".")
    layer = f"model.layers.{index}"
    if part in ("ln1", "ln2"):
        return f"{layer}.{'attn' if part == 'ln1' else 'ffn'}_norm.{leaf}"
    if part == "channel":
        return f"{layer}.ffn.{'x_k' if leaf == 'mix_k' else leaf.replace('_weight', '.weight')}"
    low = re.fullmatch(r"([wavg])_(down|up)_(weight|bias)", leaf)
    if low:
        return f"{layer}.attn.{low[1]}_lora.lora.{'0' if low[2] == 'down' else '2'}.{low[3]}"
    if stacked and leaf.startswith("x_"):
        row = MIXES.index(leaf[-1])
        return Weight.of(f"{layer}.attn.x_x", view=lambda mixes: one_mix(mixes, row))
    kind, _, what = leaf.rpartition("_")
    if kind == "ln_x":
        return f"{layer}.attn.g_norm.{what}"
    return f"{layer}.attn.{ATTENTION.get(kind, leaf)}"


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
