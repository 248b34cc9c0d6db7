"""Pre-activations: one dense product, and gradients at the entries that matter alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_dictionaries.training.entries import DENSE_FROM, Entries

__all__ = ["Codes", "PreActivations", "told"]

CELLS = 1 << 17
"""How many values are computed at a time: half a megabyte of them."""


class Read(torch.autograd.Function):
    """Pre-activations at some entries, or at all; the gradient reaches weights and biases, never the input."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        bias: Tensor,  # noqa: ARG004 - it is in the values; its gradient is returned
        centre: Tensor | None,
        x: Tensor,
        values: Tensor,
        at: Entries | None,
    ) -> Tensor:
        """The values of ``x @ weight.T + bias``, which were computed already; ``x`` has ``centre`` subtracted."""
        ctx.save_for_backward(weight, x)
        ctx.at, ctx.centred = at, centre is not None
        return values if at is None else at.gather(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Sparse where only some entries were read."""
        weight, x = ctx.saved_tensors
        [gradient] = gradients
        at: Entries | None = ctx.at
        if at is None:
            d_weight, d_bias = gradient.T @ x, gradient.sum(0)
        else:
            d_weight, d_bias = at.transposed_times(gradient, x), at.sums(gradient)
        # summed over the tokens first: the dense product of each token's gradient with the weights is not needed
        d_centre = -(d_bias @ weight) if ctx.centred else None
        return d_weight, d_bias, d_centre, None, None, None


class Write(torch.autograd.Function):
    """A sparse matrix of values times decoder rows, with gradients to both."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, at: Entries) -> Tensor:
        """The reconstruction without its bias."""
        ctx.save_for_backward(values, weight)
        ctx.at = at
        return at.times(values, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Both gradients at the entries alone."""
        values, weight = ctx.saved_tensors
        [gradient] = gradients
        gradient = gradient.contiguous()
        return ctx.at.sampled(gradient, weight), ctx.at.transposed_times(values, gradient), None


def told(compare: Callable[..., Tensor], values: Tensor, other: Any) -> Tensor:
    """A comparison as ones and zeros, in one pass: booleans are slow in products and sums."""
    return compare(values, other, out=torch.empty_like(values))


@dataclass(frozen=True, eq=False)
class Codes:
    """Values of features at tokens: at some entries [entry], or at all [token feature]."""

    values: Tensor
    at: Entries | None
    tokens: int

    def with_values(self, values: Tensor) -> Codes:
        """Other values at the same places."""
        return replace(self, values=values)

    def of_feature(self, vector: Float[Tensor, "feature"]) -> Tensor:
        """A number of each feature, as it belongs to the values."""
        return vector if self.at is None else vector[self.at.columns]

    def times(self, weight: Float[Tensor, "feature out"]) -> Float[Tensor, "token out"]:
        """What the features write, without a bias."""
        if self.at is None:
            return self.values @ weight
        written: Tensor = Write.apply(self.values, weight, self.at)  # type: ignore[no-untyped-call]
        return written

    def of_token(self, vector: Float[Tensor, "token"]) -> Tensor:
        """A number of each token, as it belongs to the values."""
        return vector[:, None] if self.at is None else vector[self.at.rows]

    def parts(self) -> Iterator[tuple[slice, Codes]]:
        """All at once where they are sparse; some tokens at a time where not, with where they are among the values.

        What is computed of a few tokens stays in the cache of a CPU: a new matrix of the size of the values costs ten
        times what reading it does.
        """
        rows = self.tokens
        if self.at is None and self.values.device.type == "cpu":
            rows = max(1, CELLS // self.values.shape[-1])
        for start in range(0, self.tokens, rows):
            part = slice(start, start + rows) if rows < self.tokens else slice(None)
            yield part, self if rows >= self.tokens else Codes(self.values[part], None, len(self.values[part]))

    def mean(self, values: Tensor) -> Float[Tensor, ""]:
        """The mean over tokens of the sum over features of some values at these places."""
        return values.sum() / self.tokens

    def weighted_mean(self, weights: Float[Tensor, "feature"]) -> Float[Tensor, ""]:
        """The mean over tokens of the sum over features of values times a weight of each feature."""
        return self.by_feature(self.values) @ weights / self.tokens

    def by_token(self, values: Tensor) -> Float[Tensor, "token"]:
        """The sum over features of some values at these places, for each token."""
        if self.at is None:
            return values.sum(-1)
        return torch.zeros(self.tokens, dtype=values.dtype, device=values.device).index_add(0, self.at.rows, values)

    def by_feature(self, values: Tensor) -> Float[Tensor, "feature"]:
        """The sum over tokens of some values at these places, for each feature."""
        return values.sum(0) if self.at is None else self.at.sums(values)

    def fired(self) -> Float[Tensor, "feature"]:
        """At how many tokens each feature is not zero."""
        found = self.with_values(self.values.detach())
        counts = [part.by_feature(told(torch.ne, part.values, 0)) for _, part in found.parts()]
        return torch.stack(counts).sum(0)

    def below(self, width: int, start: int = 0) -> Codes:
        """The features from ``start`` up to ``width`` alone."""
        if self.at is None:
            inside = torch.zeros_like(self.values)
            inside[:, start:width] = self.values[:, start:width]
            return self.with_values(inside)
        keep = (self.at.columns >= start) & (self.at.columns < width)
        return Codes(self.values[keep], self.at.only(keep), self.tokens)


@dataclass(frozen=True, eq=False)
class PreActivations:
    """What every feature reads of every token: ``(x - centre) @ weight.T + bias``."""

    weight: Float[Tensor, "feature in"]
    bias: Float[Tensor, "feature"]
    centre: Float[Tensor, "in"] | None
    x: Float[Tensor, "token in"]
    values: Float[Tensor, "token feature"]
    """Without gradients: to choose by."""

    @classmethod
    def of(cls, x: Tensor, weight: Tensor, bias: Tensor, centre: Tensor | None) -> PreActivations:
        """The dense product."""
        with torch.no_grad():
            centred = x if centre is None else x - centre
            return cls(weight, bias, centre, centred, torch.addmm(bias, centred, weight.T))

    def read(self, at: Entries | None) -> Codes:
        """The pre-activations at some entries, or at all (None), with gradients."""
        values = Read.apply(self.weight, self.bias, self.centre, self.x, self.values, at)  # type: ignore[no-untyped-call]
        return Codes(values, at, len(self.x))

    def where(self, mask: Bool[Tensor, "token feature"]) -> Codes:
        """The pre-activations where a mask is true; all of them where that is as quick."""
        share = int(torch.count_nonzero(mask)) / mask.numel()
        return self.read(None if share > DENSE_FROM else Entries.where(mask))
