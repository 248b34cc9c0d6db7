"""What RWKV-4, 5 and 6 share: sizes from the tensors or the config, and what their configs say."""

from __future__ import annotations

from collections.abc import Callable

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.protocols import Backend
from mi_core.tensors import TensorIndex
from mi_recurrent.checkpoints import blueprint, shape_of
from mi_recurrent.layouts import Layout

__all__ = ["blueprint_of", "head_eps", "heads_of", "width_of"]

INERT = {
    "rescale_every": "the reference halves the stream every so many layers against overflow in float16: it gives the "
    "same but for the norms' eps, and would scale every activation",
    "context_length": "there are no position embeddings, and no limit",
    "intermediate_size": "read from the tensors where they disagree",
    "num_attention_heads": "published configs hold the head's size here; read from the tensors",
    "head_size": "read from the tensors where they disagree",
}


def width_of(config: Config, tensors: TensorIndex | None, names: Layout, index: int, default: int) -> int:
    """How many neurons has the channel part of a layer? From the tensors, or from the config alone."""
    if tensors is not None:
        return shape_of(tensors, names.name(f"blocks.{index}.channel.key_weight"))[0]
    found: int = config.size("intermediate_size", default=default)
    return found


def heads_of(config: Config, tensors: TensorIndex | None, names: Layout, index: int) -> int:
    """How many heads has a layer? From the tensors, or from the config alone.

    Raises:
        BadConfig: the heads do not divide the width, or the mixer is not as wide as the stream.
    """
    d_model = config.size("hidden_size")
    if tensors is None:
        size = config.size("head_size", default=64)
        n_heads = max(int(d_model) // int(size), 1)
    else:
        n_heads = shape_of(tensors, names.name(f"blocks.{index}.mixer.time_faaaa"))[0]
    if d_model % n_heads:
        raise BadConfig(
            f"{config.where}: 'hidden_size' is {d_model!r}, which {n_heads} heads do not divide.",
            path=config.where,
            key="hidden_size",
        )
    return n_heads


def head_eps(config: Config) -> float:
    """The eps of the norm over each head.

    Source: the reference normalises the head divided by ``head_size_divisor`` with eps 1e-5, which is the same.
    """
    divisor: float = config.number("head_size_divisor", default=8.0, at_least=1e-3)
    return 1e-5 * divisor**2


def blueprint_of(build: Callable[[], Backend], config: Config, tensors: TensorIndex | None, names: Layout) -> Blueprint:
    """The blueprint of a checkpoint of that layout.

    Raises:
        BadConfig: the mixer is not as wide as the stream.
    """
    d_model = config.size("hidden_size")
    if config.size("attention_hidden_size", default=d_model) != d_model:
        raise BadConfig(
            f"{config.where}: 'attention_hidden_size' is {config['attention_hidden_size']!r}; mixers as wide as "
            f"'hidden_size' ({d_model}) are computed, others are not.",
            path=config.where,
            key="attention_hidden_size",
        )
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(build, names, tensors, tied=tied, inert=INERT)
