"""Weights by name, in the layouts that the field knows: ``W_Q [head d_model d_head]``, ``W_in [d_model d_mlp]``, ..."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import torch
from torch import Tensor

from mi_core.errors import UnknownPoint
from mi_core.placed import PlacedBackend
from mi_core.protocols import Backend

__all__ = ["Weights"]


class Weights:
    """The weights of a model: views, never copies, but for those that are quantised, on another device or on disk.

    ``model.weights["blocks.5.attn.W_O"]`` is ``[head d_head d_model]``; ``model.weights.stack("attn.W_O")`` has all
    layers, ``[layer head d_head d_model]``.
    """

    def __init__(self, backend: Backend, model: str) -> None:
        self._backend = backend
        self._model = model

    def __getitem__(self, name: str) -> Tensor:
        """One weight.

        Raises:
            UnknownPoint: the model has none of that name; the message names the closest.
        """
        if not hasattr(self._backend, "weight"):
            raise UnknownPoint(f"{self._model} gives no weights by name: its backend has no weight(name).", name=name)
        try:
            return self._backend.weight(name)
        except KeyError as error:
            names = str(error.args[0]).partition("there are ")[2].split(", ")
            close = difflib.get_close_matches(name, names, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise UnknownPoint(f"{self._model}: {error.args[0]}.{hint}", name=name) from None

    def __contains__(self, name: object) -> bool:
        """Whether the model has it; nothing is brought for that."""
        backend = self._backend
        bare = backend.inner if isinstance(backend, PlacedBackend) else backend
        try:
            Weights(bare, self._model)[str(name)]
        except UnknownPoint:
            return False
        return True

    def several(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Some weights by name; those of a layer that comes and goes are brought in together.

        Raises:
            UnknownPoint: the model has none of that name.
        """
        asked, backend = tuple(names), self._backend
        if not isinstance(backend, PlacedBackend):
            return {name: self[name] for name in asked}
        found = {}
        for unit in dict.fromkeys(map(backend.holding, asked)):
            with backend.present(unit):
                found.update({name: self[name] for name in asked if backend.holding(name) == unit})
        return {name: found[name] for name in asked}

    def stack(self, name: str) -> Tensor:
        """One weight of all layers as ``[layer ...]`` (a copy)."""
        return torch.stack([self[f"blocks.{layer}.{name}"] for layer in range(self._backend.shape.n_layers)])
