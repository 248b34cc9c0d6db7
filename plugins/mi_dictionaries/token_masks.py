"""Which tokens of each row a dictionary is spliced in at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Bool
from torch import Tensor

from mi_core.errors import SelectorError

__all__ = ["AllBut", "OfRows"]


class Tokens(Protocol):
    """The real tokens of a row."""

    @property
    def ids(self) -> Sequence[int]:
        """Their ids."""
        ...


@dataclass(frozen=True)
class AllBut:
    """Every position whose token is none of these: special tokens, whose activations are like no other's.

    In a generation: the positions of the prompt.
    """

    tokens: frozenset[int]

    def resolve(self, row: Tokens, row_number: int) -> list[int]:
        """The positions in one row."""
        return [position for position, token in enumerate(row.ids) if token not in self.tokens]


@dataclass(frozen=True, eq=False)
class OfRows:
    """The positions where a mask is true, counted on each row's real tokens."""

    mask: Bool[Tensor, "batch pos"]

    def resolve(self, row: Tokens, row_number: int) -> list[int]:
        """The positions in one row."""
        n = len(row.ids)
        if row_number >= len(self.mask) or n > self.mask.shape[1]:
            raise SelectorError(
                f"a mask {list(self.mask.shape)} does not cover row {row_number}, which has {n} tokens.",
                shape=tuple(self.mask.shape),
            )
        found: list[int] = self.mask[row_number, :n].nonzero().flatten().tolist()
        return found
