"""Routings: from router logits to the experts that a token chooses, and what multiplies each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["ChosenSoftmax", "Groups", "Routing", "SparseMixer", "TopK"]

Choice = tuple[Int[Tensor, "*token slot"], Float[Tensor, "*token slot"]]
"""The chosen experts, the best first, and their weights."""


@runtime_checkable
class Routing(Protocol):
    """How tokens choose experts."""

    @property
    def top_k(self) -> int:
        """How many experts each token chooses."""
        ...

    def choose(self, logits: Float[Tensor, "*token expert"], bias: Float[Tensor, "expert"] | None) -> Choice:
        """Each token's experts and their weights; ``bias`` takes part in the choice alone."""
        ...


@dataclass(frozen=True)
class Groups:
    """Experts lie in ``count`` groups of equal size, and a token's come from the ``kept`` best of them.

    A group is as good as the sum of its ``best`` highest scores. Source: DeepSeek-AI 2024, arXiv:2405.04434, section
    2.2.2 (the highest), and arXiv:2412.19437, section 2.1.2 (the two highest).
    """

    count: int
    kept: int
    best: int
    closed: float
    """What scores of the other groups are replaced by."""

    def limited(self, scores: Float[Tensor, "*token expert"]) -> Float[Tensor, "*token expert"]:
        """The scores, those outside the best groups closed."""
        grouped = scores.view(*scores.shape[:-1], self.count, -1)
        good = grouped.topk(self.best, -1).values.sum(-1).topk(self.kept, -1).indices
        closed = torch.ones(grouped.shape[:-1], dtype=torch.bool, device=scores.device).scatter(-1, good, False)
        return grouped.masked_fill(closed[..., None], self.closed).flatten(-2)


def softmax(logits: Float[Tensor, "*token expert"]) -> Float[Tensor, "*token expert"]:
    """Probabilities over all experts."""
    return torch.softmax(logits, -1)


SCORES: dict[str, Callable[[Tensor], Tensor]] = {"softmax": softmax, "sigmoid": torch.sigmoid}


@dataclass(frozen=True)
class TopK:
    """The experts with the highest scores, which are computed over all experts; the scores are the weights.

    Source: Shazeer et al. 2017, arXiv:1701.06538; transformers 5.24, Qwen2MoeTopKRouter (softmax), DeepseekV3TopkRouter
    (sigmoid, bias, groups), Ernie4_5_MoeTopKRouter (a floor below the sum).
    """

    top_k: int
    score: Literal["softmax", "sigmoid"] = "softmax"
    normalise: bool = False
    """Whether the weights of a token are divided by their sum."""
    power: float = 1.0
    """What weights are raised to in that sum, whose root then divides. Source: transformers 5.24, DbrxFFN."""
    extra: float = 0.0
    """What is added to that sum."""
    floor: float = 0.0
    """What that sum is at least."""
    scale: float = 1.0
    """What weights are multiplied by in the end."""
    groups: Groups | None = None
    cap: float | None = None
    """What logits are squeezed below first. Source: transformers 5.24, LagunaTopKRouter."""
    by_logits: bool = False
    """Whether experts are chosen by their logits, to which a bias is then added. Source: Kolibri1TopKRouter."""

    def choose(self, logits: Float[Tensor, "*token expert"], bias: Float[Tensor, "expert"] | None) -> Choice:
        """Each token's experts and their weights, computed in float32 at least."""
        wide = widened(logits)
        wide = wide if self.cap is None else torch.tanh(wide / self.cap) * self.cap
        scores = SCORES[self.score](wide)
        judged = wide if self.by_logits else scores
        judged = judged if bias is None else judged + bias
        judged = judged if self.groups is None else self.groups.limited(judged)
        indices = judged.topk(self.top_k, -1).indices
        weights = scores.gather(-1, indices)
        if self.normalise:
            total = weights.sum(-1, keepdim=True) if self.power == 1.0 else weights.norm(self.power, -1, keepdim=True)
            weights = weights / (total + self.extra).clamp(min=self.floor)
        return indices, weights if self.scale == 1.0 else weights * self.scale


@dataclass(frozen=True)
class ChosenSoftmax:
    """The experts with the highest logits; the softmax over these logits alone gives their weights.

    Source: Jiang et al. 2024, arXiv:2401.04088, section 2.1; transformers 5.24, GptOssTopKRouter (in the logits'
    dtype), GraniteMoeTopKGating (in float32).
    """

    top_k: int
    wide: bool = True
    """Whether the softmax is computed in float32 where logits are narrower."""

    def choose(self, logits: Float[Tensor, "*token expert"], bias: Float[Tensor, "expert"] | None) -> Choice:
        """Each token's experts and their weights."""
        judged = logits if bias is None else logits + bias
        indices = judged.topk(self.top_k, -1).indices
        chosen = logits.gather(-1, indices)
        return indices, torch.softmax(widened(chosen) if self.wide else chosen, -1)


@dataclass(frozen=True)
class SparseMixer:
    """Two experts, each weighted by a softmax over those that come close to it: within twice ``jitter`` of its logit.

    Source: Liu et al. 2024, arXiv:2409.12136; transformers 5.24, modeling_phimoe.py: sparsemixer, as in evaluation.
    """

    jitter: float
    top_k: int = 2

    def choose(self, logits: Float[Tensor, "*token expert"], bias: Float[Tensor, "expert"] | None) -> Choice:
        """Each token's experts and their weights, which do not sum to one."""
        indices, weights, left = [], [], logits
        for _ in range(self.top_k):
            best, index = left.max(-1, keepdim=True)
            far = (best - logits) / logits.abs().clamp(min=best) > 2 * self.jitter
            weights.append(torch.softmax(left.masked_fill(far, -math.inf), -1).gather(-1, index))
            indices.append(index)
            left = left.scatter(-1, index, -math.inf)
        return torch.cat(indices, -1), torch.cat(weights, -1)


def widened(x: Float[Tensor, "*dims"]) -> Float[Tensor, "*dims"]:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
