"""Which token comes next: greedily, or by chance that is a function of seed, row and position only."""

from __future__ import annotations

import math
import operator
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.errors import InputError
from mi_core.noise import mixed, uniform

__all__ = ["Sampling"]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from logits.

    The order is: repetition penalty, temperature, ``top_k``, ``top_p``; what is left is sampled by adding Gumbel noise
    to the log-probabilities. The noise of a token depends on seed, row, position and token id alone: rows and edits
    that change little sample the same.

    Source: transformers 5.24, generation/logits_process.py (penalty, temperature, top_k, top_p); Gumbel 1954, and
    Maddison et al. 2014, "A* Sampling" (the maximum of logits plus Gumbel noise is a sample).
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    seeds: tuple[int, ...] = ()
    """One for all rows, or one for each."""

    @classmethod
    def of(
        cls,
        temperature: Any,
        top_k: Any,
        top_p: Any,
        repetition_penalty: Any,
        seed: Any,
        rows: int,
    ) -> Sampling:
        """Check what was asked.

        Raises:
            InputError: a value out of its range.
        """
        checked("temperature", temperature, "a number of at least 0 (0: the likeliest token)", lambda t: t >= 0)
        checked("repetition_penalty", repetition_penalty, "a number above 0 (1: none)", lambda p: p > 0)
        if top_k is not None:
            checked("top_k", top_k, "a whole number of at least 1, or None", lambda k: k >= 1 and k == int(k))
        if top_p is not None:
            checked("top_p", top_p, "a number above 0 and at most 1, or None", lambda p: 0 < p <= 1)
        return cls(float(temperature), top_k, top_p, float(repetition_penalty), seeds_of(seed, rows))

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature == 0

    def choose(
        self,
        logits: Float[Tensor, "rows d_vocab"],
        rows: Sequence[int],
        positions: Sequence[int],
        context: Sequence[Sequence[int]],
    ) -> list[int]:
        """The next token of some rows.

        ``rows`` are their numbers, ``positions`` where the token will stand, ``context`` the tokens before it.
        """
        scores = logits.float()
        if self.repetition_penalty != 1:
            scores = self._penalised(scores, context)
        if not self.greedy:
            scores = self._narrowed(scores / self.temperature)
            scores = scores.double() + self._noise(rows, positions, scores.shape[-1], scores.device)
        return [int(token) for token in scores.argmax(-1).tolist()]

    def _penalised(self, scores: Tensor, context: Sequence[Sequence[int]]) -> Tensor:
        scores = scores.clone()
        for row, ids in enumerate(context):
            seen = torch.tensor(sorted(set(ids)), device=scores.device)
            old = scores[row, seen]
            penalty = self.repetition_penalty
            scores[row, seen] = torch.where(old < 0, old * penalty, old / penalty)
        return scores

    def _narrowed(self, scores: Tensor) -> Tensor:
        """Without the tokens that ``top_k`` and ``top_p`` leave out."""
        if self.top_k is not None and self.top_k < scores.shape[-1]:
            least = scores.topk(self.top_k).values[..., -1:]
            scores = scores.masked_fill(scores < least, -math.inf)
        if self.top_p is not None and self.top_p < 1:
            ascending, order = scores.sort(descending=False)
            out = ascending.softmax(-1).cumsum(-1) <= 1 - self.top_p
            out[..., -1] = False
            scores = scores.masked_fill(torch.zeros_like(out).scatter(-1, order, out), -math.inf)
        return scores

    def _noise(self, rows: Sequence[int], positions: Sequence[int], size: int, device: torch.device) -> Tensor:
        one = len(self.seeds) == 1
        # a row with a seed of its own is the same alone
        number = torch.tensor([row if one else 0 for row in rows], device=device)
        seed = torch.tensor([self.seeds[0 if one else row] for row in rows], device=device)
        key = mixed(mixed(mixed(seed) + number) + torch.tensor(positions, device=device))
        return -torch.log(-torch.log(uniform(mixed(key[:, None] + torch.arange(size, device=device)))))


def checked(name: str, value: Any, wanted: str, fits: Any) -> None:
    """Refuse a value that is no number, or out of its range."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not fits(value):
        raise InputError(f"{name}={value!r}: give {wanted}.", **{name: value})


def seeds_of(seed: Any, rows: int) -> tuple[int, ...]:
    """One seed for all rows, drawn if there is none, or one for each row."""
    try:
        if seed is None:
            return (secrets.randbits(32),)
        if not isinstance(seed, list | tuple):
            return (whole(seed),)
        seeds = tuple(whole(each) for each in seed)
    except TypeError:
        raise InputError(f"seed={seed!r}: give an int, one for each row, or None.", seed=seed) from None
    if len(seeds) != rows:
        raise InputError(f"seed={seed!r} are {len(seeds)} seeds for {rows} rows: give one for all, or each its own.")
    # one row with a list of one seed is row 0 of that seed either way
    return seeds


def whole(seed: Any) -> int:
    """A seed in 64 bits."""
    number = operator.index(seed)
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)
