"""Where features are most active, and how active they are in all: one pass over rows of activations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["BINS", "EDGES", "FeatureTops"]

EDGES = torch.arange(-20, 21) / 2.0
"""Edges of the bins of a histogram: logarithms to base 2 of an activation's size."""
BINS = len(EDGES) + 1
"""One between each two edges, one below the lowest and one above the highest."""


@dataclass(eq=False)
class FeatureTops:
    """The rows at which each feature is most active, the largest absolute value first, and how active it is in all.

    What is active is merged in as it comes, a part of the rows at a time: no row of all features is ever held.

    >>> tops = FeatureTops.empty(3, examples=2)
    >>> tops.add(torch.tensor([0, 0, 1, 2]), torch.tensor([1, 2, 1, 1]), torch.tensor([5.0, 1.0, 9.0, 7.0]), first=100)
    >>> tops.rows[1].tolist(), tops.values[1].tolist(), tops.active.tolist()
    ([101, 102], [9.0, 7.0], [0, 3, 1])
    """

    values: Float[Tensor, "feature example"]
    """0 where a feature was active less often."""
    rows: Int[Tensor, "feature example"]
    histogram: Int[Tensor, "feature bin"]
    total: Float[Tensor, "feature"]
    """The sum of each feature's activations, in float64."""

    @classmethod
    def empty(cls, d_sae: int, examples: int) -> FeatureTops:
        """Nothing was seen yet."""
        return cls(
            torch.zeros(d_sae, examples),
            torch.full((d_sae, examples), -1),
            torch.zeros(d_sae, BINS, dtype=torch.long),
            torch.zeros(d_sae, dtype=torch.float64),
        )

    @property
    def active(self) -> Int[Tensor, "feature"]:
        """At how many rows each feature was active."""
        return self.histogram.sum(1)

    def add(self, token: Int[Tensor, "n"], index: Int[Tensor, "n"], values: Float[Tensor, "n"], first: int) -> None:
        """Take in features that are active at some rows, which begin with the row ``first``."""
        live = values != 0
        token, index, values = token[live], index[live], values[live].float()
        size = values.abs().log2()
        bins = torch.bucketize(size, EDGES)
        self.histogram.view(-1).index_add_(0, index * BINS + bins, torch.ones_like(bins))
        self.total.index_add_(0, index, values.double())
        self._merge(token + first, index, values)

    def _merge(self, row: Tensor, index: Tensor, values: Tensor) -> None:
        touched, place = torch.unique(index, return_inverse=True)
        count, k = len(touched), self.values.shape[1]
        old = torch.arange(count).repeat_interleave(k)
        group = torch.cat((old, place))
        scores = torch.cat((self.values[touched].flatten(), values))
        where = torch.cat((self.rows[touched].flatten(), row))
        # largest first within each feature: by size, then (stable) by feature
        order = scores.abs().argsort(descending=True, stable=True)
        order = order[group[order].argsort(stable=True)]
        group, scores, where = group[order], scores[order], where[order]
        begin = torch.searchsorted(group, torch.arange(count))
        rank = torch.arange(len(group)) - begin[group]
        kept = rank < k
        fresh, rows = torch.zeros(count, k), torch.full((count, k), -1)
        fresh[group[kept], rank[kept]] = scores[kept]
        rows[group[kept], rank[kept]] = where[kept]
        self.values[touched], self.rows[touched] = fresh, rows
