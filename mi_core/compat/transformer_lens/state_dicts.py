"""All weights by name, out and in again: how toy models are kept in TransformerLens."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from mi_core.errors import MissingTensors, UnusedTensors, ValueMismatch
from mi_core.fill import listing
from mi_core.model import Model

__all__ = ["StateDicts"]

COMPUTED = ("*.attn.mask", "*.attn.IGNORE", "*.attn.rotary_*")
"""What theirs keeps beside weights."""


class StateDicts:
    """The state dict of a :class:`HookedTransformer`, under the names and in the shapes of TransformerLens."""

    model: Model

    def state_dict(self) -> dict[str, Tensor]:
        """Every weight by its name; views, so that `torch.save` keeps what they are at that moment."""
        backend: Any = self.model.backend
        return {name: tensor.detach() for name, tensor in backend.weights().items()}

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True) -> None:
        """Fill the weights in place; biases of zeros may be of parts that have none here.

        Raises:
            UnusedTensors: there is no place for a tensor.
            ValueMismatch: a tensor has another shape.
            MissingTensors: a parameter stays as it was, unless ``strict`` is False.
        """
        backend: Any = self.model.backend
        places: dict[str, Tensor] = {name: tensor.detach() for name, tensor in backend.weights().items()}
        held = {each.untyped_storage().data_ptr(): name for name, each in self.model.module.named_parameters()}
        given = {
            name.replace("._W_", ".W_").replace("._b_", ".b_"): tensor  # theirs where heads share keys
            for name, tensor in state_dict.items()
            if not any(fnmatchcase(name, pattern) for pattern in COMPUTED)
        }
        left = [
            name
            for name, tensor in given.items()
            if (name not in places or places[name].untyped_storage().data_ptr() not in held) and bool(tensor.any())
        ]
        if left:
            raise UnusedTensors(f"{self.model.name} has no place for {listing(left)}.", names=left)
        wrong = [name for name, tensor in given.items() if name in places and places[name].shape != tensor.shape]
        if wrong:
            name = wrong[0]
            raise ValueMismatch(
                f"{name} is {list(given[name].shape)}, {self.model.name} has {list(places[name].shape)}.", name=name
            )
        filled = {places[name].untyped_storage().data_ptr() for name in given if name in places}
        missing = [name for storage, name in held.items() if storage not in filled]
        if missing and strict:
            raise MissingTensors(f"nothing fills {listing(missing)} of {self.model.name}.", names=missing)
        with torch.no_grad():
            for name in given.keys() & places.keys():
                places[name].copy_(given[name])
