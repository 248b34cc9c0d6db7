"""Batches in mixed order, each a function of its number."""

from __future__ import annotations

from random import Random

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_dictionaries.training.streams import Chunks

__all__ = ["Mixer"]


class Mixer:
    """Batches that are drawn from half a chunk of activations and half of the chunk before it.

    Every chunk is halved at random. Pool ``c`` is the second half of chunk ``c - 1`` and the first half of chunk ``c``,
    in random order; pool 0 is half a chunk. So neighbours in the text are far apart, nothing jumps between chunks,
    every token is served once, and a batch needs two chunks and nothing that came before them: where a training goes
    on, they are read again. The two lie in one buffer, and only a batch's rows are ever copied out of it.
    """

    def __init__(self, source: Chunks, batch: int, mix_tokens: int, seed: int, share: tuple[int, int] = (0, 1)) -> None:
        self.source, self.batch, self.seed = source, batch, seed
        self.rank, self.world = share
        self.half = mix_tokens // (2 * batch)
        """Batches in half a chunk."""
        self.size = 2 * self.half * batch
        """Tokens in a chunk."""
        self.buffer = torch.empty(0)
        self.held: list[int | None] = [None, None]
        self.pool = -1
        self.order: Int[Tensor, "token"] = torch.empty(0, dtype=torch.long)

    def __getitem__(self, number: int) -> Float[Tensor, "token width"]:
        """Batch ``number``."""
        pool, place = divmod(number + self.half, 2 * self.half)
        if pool != self.pool:
            self.hold(pool)
        if pool == 0:
            place -= self.half
        return self.buffer[self.order[place * self.batch : (place + 1) * self.batch]]

    def hold(self, pool: int) -> None:
        """Read the chunks of a pool that are not there, and draw its order."""
        if not len(self.buffer):
            self.buffer = torch.empty(2 * self.size, sum(self.source.widths))
        for number in range(max(pool - 1, 0), pool + 1):
            if self.held[number % 2] != number:
                rows = self.source.chunk(number * self.world + self.rank, self.size)
                self.buffer[number % 2 * self.size :][: self.size] = rows
                self.held[number % 2] = number
        places = self.halves(pool)[0] if pool == 0 else torch.cat([self.halves(pool - 1)[1], self.halves(pool)[0]])
        self.order = places[self.shuffled(len(places), f"pool {pool}")]
        self.pool = pool

    def halves(self, number: int) -> tuple[Int[Tensor, "token"], Int[Tensor, "token"]]:
        """Where the two halves of a chunk lie in the buffer."""
        places = self.shuffled(self.size, f"chunk {number}") + number % 2 * self.size
        return places[: self.size // 2], places[self.size // 2 :]

    def shuffled(self, count: int, what: str) -> Int[Tensor, "token"]:
        """An order of its own for each seed, process and pool."""
        drawn = Random(f"{self.seed} {self.rank} {what}").getrandbits(63)
        return torch.randperm(count, generator=torch.Generator().manual_seed(drawn))
