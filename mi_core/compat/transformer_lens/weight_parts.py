"""Weights under the attributes that ``model.blocks[3].attn.W_Q`` has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_core.compat.transformer_lens.config import HookedTransformerConfig
from mi_core.compat.transformer_lens.norms import final_normed
from mi_core.errors import UnknownPoint
from mi_core.model import Model

__all__ = ["Block", "FinalNorm", "Part", "Unembedding", "weight"]


def weight(model: Model, cfg: HookedTransformerConfig, name: str) -> Tensor:
    """A weight by its full name, in the shape that TransformerLens gives it.

    Keys and values are repeated for every head where heads share them (a copy; all else are views), and a bias that
    the model does not have is zeros.

    Raises:
        UnknownPoint: the model has no such weight, nor a matrix that the bias would belong to.
    """
    place, _, own = name.rpartition(".")
    if own.startswith("b_") and name not in model.weights:
        return no_bias(model, cfg, place, own)
    found = model.weights[name]
    shared = own in ("W_K", "W_V", "b_K", "b_V") and cfg.n_heads is not None and len(found) < cfg.n_heads
    return found.repeat_interleave(cfg.n_heads // len(found), 0) if shared and cfg.n_heads else found


def no_bias(model: Model, cfg: HookedTransformerConfig, place: str, own: str) -> Tensor:
    """Zeros in the shape of the bias that a matrix would have."""
    matrix = weight(model, cfg, f"{place}.W_{own[2:]}")
    heads = matrix.shape[:1] if own in ("b_Q", "b_K", "b_V") else torch.Size()
    return matrix.new_zeros(*heads, matrix.shape[-1])


class Part:
    """One part of the model: its weights are attributes."""

    def __init__(self, model: Model, cfg: HookedTransformerConfig, name: str) -> None:
        self._model = model
        self._cfg = cfg
        self._name = name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r})"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return weight(self._model, self._cfg, f"{self._name}.{name}")
        except UnknownPoint as error:
            raise AttributeError(str(error)) from error


class Block(Part):
    """One layer."""

    def __getattr__(self, name: str) -> Any:
        if name not in ("attn", "mlp", "ln1", "ln2", "ln1_post", "ln2_post"):
            return super().__getattr__(name)
        return Part(self._model, self._cfg, f"{self._name}.{name}")


class FinalNorm(Part):
    """The final norm; called with a stream it returns what the unembedding multiplies."""

    def __call__(self, resid: Tensor) -> Tensor:
        """What the unembedding multiplies."""
        return final_normed(self._model, resid)


class Unembedding(Part):
    """The unembedding; called with what the final norm returned it gives logits."""

    def __call__(self, normed: Tensor) -> Tensor:
        """Logits."""
        return self._model.unembed(normed, norm=False)
