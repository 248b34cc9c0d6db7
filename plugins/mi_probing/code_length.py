"""How short is the labels' description, given the activations? The online code: fit, foretell the next block, go on.

Whoever has the activations sends the labels block by block, each coded by the probe that the blocks before it give. A
representation from which labels are easily read needs few bits; a powerful probe that needs many examples pays them.

Source: Voita and Titov 2020, "Information-Theoretic Probing with Minimum Description Length" (arXiv:2003.12298),
section 2.2; the shares of the blocks are theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, log2

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_probing.tasks import Tasks

__all__ = ["OnlineCode"]

SHARES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)


@dataclass(frozen=True, eq=False)
class OnlineCode:
    """Blocks of examples; whole groups, so that no block is foretold from its own facts."""

    block: Int[Tensor, "example"]
    """Which block each example is sent in."""
    blocks: int

    @classmethod
    def of(
        cls,
        groups: Int[Tensor, "example"],
        labels: Int[Tensor, "example"],
        classes: int,
        *,
        shares: Sequence[float] = SHARES,
        seed: int = 0,
    ) -> OnlineCode:
        """Blocks that end where these shares of the examples are sent; the first has every class."""
        names, member = torch.unique(groups, return_inverse=True)
        rank = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))[member]
        order = rank.argsort(stable=True)
        sent = torch.searchsorted(rank.sort().values, torch.arange(len(names)), right=True)  # by rank: examples so far
        complete = [int(rank[labels == label].min()) for label in range(classes) if bool((labels == label).any())]
        first = int(sent[max(complete)])
        ends = sorted({int(sent[sent.ge(max(share * len(labels), first)).nonzero()[0, 0]]) for share in shares})
        block = torch.empty_like(order)
        block[order] = torch.searchsorted(torch.tensor(ends), torch.arange(len(labels)), right=True)
        return cls(block, len(ends))

    def tasks(self, labels: Int[Tensor, "example"], classes: int, penalty: Float[Tensor, "cell"]) -> Tasks:
        """A fit on the blocks before each block but the first."""
        weights = torch.stack([(self.block < number).float() for number in range(1, self.blocks)])
        count = self.blocks - 1
        return Tasks(labels.expand(count, -1), weights, penalty[:, None].expand(-1, count), classes)

    def bits(self, losses: Float[Tensor, "cell task example"], classes: int) -> Float[Tensor, "cell"]:
        """The length of the code, from each fit's losses (nats): the first block costs ``log2(classes)`` a label."""
        following = torch.stack([self.block == number for number in range(1, self.blocks)]).to(losses)
        coded = (losses * following).sum((1, 2)) / log(2)
        return coded + int((self.block == 0).sum()) * log2(classes)
