"""TopK, AbsTopK, BatchTopK and Matryoshka: features that are counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from mi_dictionaries.training.auxiliary import auxiliary_loss
from mi_dictionaries.training.entries import Entries
from mi_dictionaries.training.options import BatchTopK, MatryoshkaBatchTopK, TopK
from mi_dictionaries.training.reading import Codes, PreActivations
from mi_dictionaries.training.trainee import Moment, Step, Trainee, squared_error

__all__ = ["BatchTopKTrainee", "MatryoshkaTrainee", "TopKTrainee", "largest_of_batch"]

T = TypeVar("T", bound=TopK)
B = TypeVar("B", bound=BatchTopK)

SAFE = 0.8
"""Candidates are what exceeds this share of the running threshold: nearly always enough, and few."""


class TopKTrainee(Trainee[T]):
    """The k largest of each token, by value or (``abstopk``) by absolute value.

    Selected by ``z`` times the decoder row's norm, and divided by it to decode, which cancels: only the choice depends
    on the norms.
    Source: SAELens 6.54, topk_sae.py, abstopk_sae.py.
    """

    @property
    def signed(self) -> bool:
        """Whether negative features count."""
        return self.options.architecture == "abstopk"

    def step(self, x: Tensor, y: Tensor, moment: Moment) -> Step:
        """Only what was selected has a value or a gradient."""
        pre = self.pre_activations(x)
        with torch.no_grad():
            ranked = self.ranked(pre.values)
            at = self.select(ranked)
            self.selected(at.gather(ranked))
        codes = pre.read(at)
        codes = codes if self.signed else codes.with_values(codes.values.relu())
        out = self.decoded(codes, x)
        losses = {"mse_loss": squared_error(out, y)}
        losses["auxiliary_reconstruction_loss"] = self.auxiliary(pre, codes, y, out.detach(), moment)
        return Step(losses, (out,), codes.fired())

    def ranked(self, values: Float[Tensor, "token feature"]) -> Float[Tensor, "token feature"]:
        """What features are ranked by."""
        return values * self.decoder_norms() if self.options.rescale_acts_by_decoder_norm else values

    def select(self, ranked: Float[Tensor, "token feature"]) -> Entries:
        """The largest of each token."""
        sizes = ranked.abs() if self.signed else ranked
        chosen = sizes.topk(int(self.options.k), dim=-1, sorted=False).indices
        return Entries.chosen(chosen, ranked.shape[1])

    def selected(self, values: Float[Tensor, "entry"]) -> None:
        """Told what was selected."""

    def auxiliary(self, pre: PreActivations, codes: Codes, y: Tensor, out: Tensor, moment: Moment) -> Tensor:
        """Dead features learn what is left over."""
        if moment.dead is None:
            return out.new_zeros(())
        loss = auxiliary_loss(pre, self.ranked(pre.values), self.W_dec, y - out, moment.dead, signed=self.signed)
        return self.options.aux_loss_coefficient * loss

    def tensors(self) -> dict[str, Tensor]:
        """With decoder norms folded into the encoder, so that the choice needs no norms any more."""
        found = super().tensors()
        if self.options.rescale_acts_by_decoder_norm:
            norms = found["W_dec"].norm(dim=1)
            found["W_enc"] = found["W_enc"] * norms
            found["b_enc"] = found["b_enc"] * norms
            found["W_dec"] = found["W_dec"] / norms[:, None]
        return found


class BatchTopKTrainee(TopKTrainee[B]):
    """The largest of a whole batch, k for each token on average; a running threshold for what comes afterwards.

    Source: SAELens 6.54, batchtopk_sae.py.
    """

    topk_threshold: Tensor

    def __init__(self, options: B, d_in: int, d_out: int, generator: torch.Generator) -> None:
        super().__init__(options, d_in, d_out, generator)
        # float64: its steps are a hundredth of what it moves by
        self.register_buffer("topk_threshold", torch.zeros((), dtype=torch.float64))

    def select(self, ranked: Float[Tensor, "token feature"]) -> Entries:
        """The largest of the batch that are positive."""
        tokens, features = ranked.shape
        indices = largest_of_batch(ranked, int(self.options.k * tokens), SAFE * float(self.topk_threshold))
        return Entries.flat(indices, tokens, features)

    def selected(self, values: Float[Tensor, "entry"]) -> None:
        """Move the threshold towards the smallest value that was kept."""
        if len(values):
            rate = self.options.topk_threshold_lr
            self.topk_threshold.mul_(1 - rate).add_(values.min().double(), alpha=rate)

    def fold(self, factors: Sequence[float]) -> None:
        """The threshold is in units of the decoder's norm."""
        super().fold(factors)
        if self.options.rescale_acts_by_decoder_norm:
            self.topk_threshold /= factors[-1]

    def tensors(self) -> dict[str, Tensor]:
        """A JumpReLU with one threshold."""
        found = super().tensors()
        return {**found, "threshold": torch.full_like(found["b_enc"], float(self.topk_threshold))}


class MatryoshkaTrainee(BatchTopKTrainee[MatryoshkaBatchTopK]):
    """BatchTopK, and a reconstruction by each smaller width.

    Source: SAELens 6.54, matryoshka_batchtopk_sae.py.
    """

    def step(self, x: Tensor, y: Tensor, moment: Moment) -> Step:
        """As BatchTopK, with the inner reconstructions kept for both losses."""
        self.inner: list[Tensor] = []
        found = super().step(x, y, moment)
        inner = {
            f"inner_mse_loss_{width}": squared_error(out, y)
            for width, out in zip(self.options.levels[:-1], self.inner, strict=True)
        }
        del self.inner
        return Step({**found.losses, **inner}, found.outs, found.fired)

    def decoded(self, codes: Codes, x: Tensor) -> Tensor:
        """Level by level, each on top of the ones before."""
        out = self.b_dec + (x @ self.W_skip.T if self.options.skip else 0)
        start = 0
        for width in self.options.levels:
            out = codes.below(width, start).times(self.W_dec) + out
            self.inner.append(out)
            start = width
        return self.inner.pop()

    def auxiliary(self, pre: PreActivations, codes: Codes, y: Tensor, out: Tensor, moment: Moment) -> Tensor:
        """Each level's dead features learn what that level leaves over, where that is asked for."""
        if moment.dead is None or not self.options.use_matryoshka_aux_loss:
            return super().auxiliary(pre, codes, y, out, moment)
        losses, start = [], 0
        for width, inner in zip(self.options.levels, [*self.inner, out], strict=True):
            dead = torch.zeros_like(moment.dead)
            dead[start:width] = moment.dead[start:width]
            if dead.any():
                ranked = self.ranked(pre.values)
                losses.append(auxiliary_loss(pre, ranked, self.W_dec, y - inner.detach(), dead, signed=False))
            start = width
        return self.options.aux_loss_coefficient * torch.stack(losses).sum()


def largest_of_batch(ranked: Float[Tensor, "token feature"], count: int, guess: float) -> Tensor:
    """The flat indices of the ``count`` largest values that are positive, in any order.

    Only what exceeds ``guess`` is sorted, if that is enough: most of a batch is far below the threshold.

    >>> largest_of_batch(torch.tensor([[3.0, -1.0], [1.0, 2.0]]), 2, 0.5).sort().values.tolist()
    [0, 3]
    """
    flat = ranked.flatten()
    candidates = (flat > max(guess, 0.0)).nonzero().flatten()
    if len(candidates) < count and guess > 0:
        candidates = (flat > 0).nonzero().flatten()
    if len(candidates) <= count:
        return candidates
    return candidates[flat[candidates].topk(count, sorted=False).indices]
