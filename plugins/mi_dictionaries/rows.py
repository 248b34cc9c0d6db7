"""Rows of weights: of a tensor in memory or a mapped file, of several of them stacked without being copied, on disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_dictionaries.on_disk import OnDisk

__all__ = ["Rows", "Stacked", "rows_of", "whole"]


@dataclass(frozen=True, eq=False)
class Stacked:
    """Matrices ``[feature d]``, one for each write, as one ``[feature writes d]``.

    Decoders that a format stores apart stay where they are; rows are fetched from each.
    """

    parts: tuple[Float[Tensor, "feature d"], ...]

    @property
    def shape(self) -> torch.Size:
        """As if they were stacked."""
        return torch.Size((self.parts[0].shape[0], len(self.parts), self.parts[0].shape[1]))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the first."""
        return self.parts[0].dtype

    @property
    def device(self) -> torch.device:
        """The device of the first."""
        return self.parts[0].device


Rows: TypeAlias = Tensor | Stacked | OnDisk


def rows_of(weight: Rows, indices: Int[Tensor, "n"]) -> Float[Tensor, "n ..."]:
    """Some rows; of a file nothing else is read."""
    if isinstance(weight, Stacked):
        return torch.stack([part[indices] for part in weight.parts], dim=1)
    rows: Tensor = weight[indices]
    return rows.to(indices.device)


def whole(weight: Rows) -> Float[Tensor, "feature ..."]:
    """All rows as one tensor."""
    if isinstance(weight, Stacked):
        return torch.stack(weight.parts, dim=1)
    return weight.whole() if isinstance(weight, OnDisk) else weight
