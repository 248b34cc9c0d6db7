"""Captured activations under names, short names and tuples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mi_core.compat.transformer_lens.act_names import full_name
from mi_core.compat.transformer_lens.residual_stacks import ResidualStacks
from mi_core.compat.transformer_lens.slices import SliceInput, sliced
from mi_core.errors import MissingActivation, SelectorError, UnknownPoint

if TYPE_CHECKING:
    from mi_core.compat.transformer_lens.hooked_transformer import HookedTransformer

__all__ = ["ActivationCache"]


class ActivationCache(ResidualStacks, Mapping[str, Tensor]):
    """``cache["blocks.3.attn.hook_pattern"]``, ``cache["pattern", 3]`` or ``cache["pattern3"]``; layer -1 is the last.

    Raises:
        MissingActivation: the cache does not hold it; a KeyError, too.
        UnknownPoint: a key that names no activation.

    Source: TransformerLens 3.9, ActivationCache.
    """

    def __init__(self, cache_dict: Mapping[str, Tensor], model: HookedTransformer, has_batch_dim: bool = True) -> None:
        self.cache_dict = dict(cache_dict)
        self.model = model
        self.has_batch_dim = has_batch_dim

    def __getitem__(self, key: object) -> Tensor:
        if isinstance(key, str) and key in self.cache_dict:
            return self.cache_dict[key]
        asked = full_name(key, self.model.cfg.n_layers)
        name = asked if asked in self.cache_dict else self.model.model.points.find(asked).name
        if name not in self.cache_dict:
            raise MissingActivation(
                f"this cache does not hold {name!r}; it has {len(self)} activations. Run again with a names_filter "
                f"that keeps it: names_filter={name!r}.",
                point=name,
            )
        return self.cache_dict[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.cache_dict)

    def __len__(self) -> int:
        return len(self.cache_dict)

    def __contains__(self, key: object) -> bool:
        try:
            self[key]
        except (MissingActivation, UnknownPoint):
            return False
        return True

    def __repr__(self) -> str:
        return f"ActivationCache with keys {list(self.cache_dict)}"

    # as of Mapping, tensors cannot be compared item by item
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def to(self, device: str | torch.device) -> ActivationCache:
        """The same cache on another device; this one stays where it is."""
        moved = {name: value.to(device) for name, value in self.cache_dict.items()}
        return ActivationCache(moved, self.model, self.has_batch_dim)

    def remove_batch_dim(self) -> ActivationCache:
        """This cache of a single row without its dim of rows; changed in place, and returned.

        Raises:
            SelectorError: it holds several rows.
        """
        if not self.has_batch_dim:
            return self
        several = [name for name, value in self.cache_dict.items() if value.shape[0] != 1]
        if several:
            rows = self.cache_dict[several[0]].shape[0]
            raise SelectorError(f"the batch dim cannot go: the cache holds {rows} rows, not one.", rows=rows)
        self.cache_dict = {name: value[0] for name, value in self.cache_dict.items()}
        self.has_batch_dim = False
        return self

    def apply_slice_to_batch_dim(self, batch_slice: SliceInput) -> ActivationCache:
        """A cache of some rows; an int drops the dim.

        Raises:
            SelectorError: the cache has no dim of rows.
        """
        if not self.has_batch_dim:
            raise SelectorError("this cache has no batch dim to slice: it was removed.")
        kept = {name: sliced(value, batch_slice, 0) for name, value in self.cache_dict.items()}
        return ActivationCache(kept, self.model, not isinstance(batch_slice, int))
