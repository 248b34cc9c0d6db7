"""Which entries of a [token feature] matrix are not zero, and products with such a matrix that touch nothing else.

A dictionary's activations are nearly all zeros. Of the six dense products of a training step (one to encode, one to
decode, and the gradients of both) only the first is needed: the others are sums over the entries that are not zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["DENSE_FROM", "Entries"]

DENSE_FROM = 1 / 8
"""The share of entries from which a dense product is faster, measured on a CPU with 512 columns."""


@dataclass(frozen=True, eq=False)
class Entries:
    """The places of a sparse [token feature] matrix, ordered by token and within a token by feature.

    >>> entries = Entries.where(torch.tensor([[0.0, 2.0], [3.0, 0.0]]) > 0)
    >>> entries.rows.tolist(), entries.columns.tolist()
    ([0, 1], [1, 0])
    """

    rows: Int[Tensor, "entry"]
    columns: Int[Tensor, "entry"]
    tokens: int
    features: int

    @classmethod
    def where(cls, mask: Bool[Tensor, "token feature"]) -> Entries:
        """The entries at which a mask is true."""
        rows, columns = mask.nonzero(as_tuple=True)
        return cls(rows, columns, *mask.shape)

    @classmethod
    def flat(cls, indices: Int[Tensor, "entry"], tokens: int, features: int) -> Entries:
        """The entries of a flattened matrix, given in any order."""
        ordered = indices.sort().values
        rows = torch.div(ordered, features, rounding_mode="floor")
        return cls(rows, ordered - rows * features, tokens, features)

    @classmethod
    def chosen(cls, columns: Int[Tensor, "token chosen"], features: int) -> Entries:
        """As many features of each token."""
        tokens, count = columns.shape
        rows = torch.arange(tokens, device=columns.device).repeat_interleave(count)
        return cls(rows, columns.sort(dim=-1).values.flatten(), tokens, features)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def starts(self) -> Int[Tensor, "token"]:
        """Where each token's entries begin."""
        return beginnings(self.rows, self.tokens)

    @cached_property
    def by_feature(self) -> tuple[Int[Tensor, "entry"], Int[Tensor, "feature"]]:
        """The order of the entries by feature, and where each feature's entries begin."""
        order = torch.argsort(self.columns, stable=True)
        return order, beginnings(self.columns, self.features)

    def gather(self, matrix: Float[Tensor, "token feature"]) -> Float[Tensor, "entry"]:
        """A dense matrix's values at the entries."""
        return matrix.flatten()[self.rows * self.features + self.columns]

    def times(self, values: Float[Tensor, "entry"], matrix: Float[Tensor, "feature out"]) -> Float[Tensor, "token out"]:
        """The sparse matrix times a dense one."""
        return F.embedding_bag(self.columns, matrix, self.starts, mode="sum", per_sample_weights=values)

    def transposed_times(
        self, values: Float[Tensor, "entry"], matrix: Float[Tensor, "token out"]
    ) -> Float[Tensor, "feature out"]:
        """The sparse matrix, transposed, times a dense one."""
        order, starts = self.by_feature
        return F.embedding_bag(self.rows[order], matrix, starts, mode="sum", per_sample_weights=values[order])

    def sampled(self, left: Float[Tensor, "token out"], right: Float[Tensor, "feature out"]) -> Float[Tensor, "entry"]:
        """The entries of ``left @ right.T``, and no others."""
        values = torch.zeros(len(self), dtype=left.dtype, device=left.device, requires_grad=True)
        with torch.enable_grad():  # the gradient of `times` by its values is exactly this
            product = self.times(values, right)
        (found,) = torch.autograd.grad(product, values, left)
        return found

    def sums(self, values: Float[Tensor, "entry"]) -> Float[Tensor, "feature"]:
        """The sum of each feature's values."""
        return torch.zeros(self.features, dtype=values.dtype, device=values.device).index_add_(0, self.columns, values)

    def only(self, keep: Bool[Tensor, "entry"]) -> Entries:
        """Some of the entries."""
        return Entries(self.rows[keep], self.columns[keep], self.tokens, self.features)


def beginnings(ordered: Int[Tensor, "entry"], count: int) -> Int[Tensor, "group"]:
    """Where each of ``count`` groups begins among entries that are ordered by group."""
    sizes = torch.bincount(ordered, minlength=count)
    return sizes.cumsum(0) - sizes
