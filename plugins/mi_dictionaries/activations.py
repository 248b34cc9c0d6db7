"""Which pre-activations become active features, and with which values.

Some activations judge each feature alone; in others features compete, and only the best are kept. Both kinds can be
shown a part of the features at a time, so that no row of all pre-activations is needed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_core.errors import BadConfig

__all__ = ["AbsTopK", "Activation", "Alone", "Best", "Gated", "GroupMax", "JumpReLU", "ReLU", "TanhReLU", "TopK"]

ALL = slice(None)


class Activation(ABC):
    """What turns pre-activations into features."""

    @abstractmethod
    def __call__(self, z: Float[Tensor, "tokens feature"]) -> Float[Tensor, "tokens feature"]:
        """The features of tokens, zero where they are not active."""


class Alone(Activation):
    """Each feature is judged alone."""

    def __call__(self, z: Float[Tensor, "tokens feature"]) -> Float[Tensor, "tokens feature"]:
        """The features of tokens, zero where they are not active."""
        return torch.where(self.on(z, ALL), self.value(z, ALL), 0)

    @abstractmethod
    def on(self, z: Float[Tensor, "tokens part"], part: slice) -> Bool[Tensor, "tokens part"]:
        """Which of a part of the features are active; what is no number is, so that it is seen."""

    def value(self, z: Float[Tensor, "..."], at: slice | Int[Tensor, "active"]) -> Float[Tensor, "..."]:
        """How active they are, of active features; ``at`` says which features they are."""
        return z


@dataclass(frozen=True, eq=False)
class ReLU(Alone):
    """``max(z, 0)``."""

    def on(self, z: Float[Tensor, "tokens part"], part: slice) -> Bool[Tensor, "tokens part"]:
        """Above zero."""
        return ~(z <= 0)


@dataclass(frozen=True, eq=False)
class TanhReLU(ReLU):
    """``tanh(max(z, 0))``. Source: SAELens 5, ``activation_fn_str="tanh-relu"``."""

    def value(self, z: Float[Tensor, "..."], at: slice | Int[Tensor, "active"]) -> Float[Tensor, "..."]:
        """At most one."""
        return torch.tanh(z)


@dataclass(frozen=True, eq=False)
class JumpReLU(Alone):
    """``z`` where it is above its threshold, strictly; below zero only with ``relu=False``.

    One threshold for each feature, or one for all: what batch top-k dictionaries are once they are trained.
    Source: Rajamanoharan et al. 2024, "Jumping Ahead", equation 2; ``relu=False``: circuit-tracer 0.4, ``JumpReLU``.
    """

    threshold: Float[Tensor, "feature"] | Float[Tensor, ""] | float
    relu: bool = True

    def on(self, z: Float[Tensor, "tokens part"], part: slice) -> Bool[Tensor, "tokens part"]:
        """Above the threshold."""
        held = self.threshold if isinstance(self.threshold, Tensor) else torch.tensor(self.threshold)
        bound = (held[part] if held.ndim else held).to(z)
        return ~(z <= (bound.clamp(min=0) if self.relu else bound))


@dataclass(frozen=True, eq=False)
class Gated(Alone):
    """A feature is on where its gate is above zero, and then as large as its magnitude says.

    The pre-activation is ``z = h W_enc`` without a bias: the gate is ``z + b_gate``, the magnitude
    ``relu(z exp(r_mag) + b_mag)``.
    Source: Rajamanoharan et al. 2024, "Improving Dictionary Learning with Gated Sparse Autoencoders", equations 6, 7.
    """

    b_gate: Float[Tensor, "feature"]
    b_mag: Float[Tensor, "feature"]
    r_mag: Float[Tensor, "feature"]

    def on(self, z: Float[Tensor, "tokens part"], part: slice) -> Bool[Tensor, "tokens part"]:
        """Gate and magnitude above zero."""
        return ~(z + self.b_gate[part].to(z) <= 0) & ~(self.value(z, part) <= 0)

    def value(self, z: Float[Tensor, "..."], at: slice | Int[Tensor, "active"]) -> Float[Tensor, "..."]:
        """The magnitude."""
        return z * self.r_mag[at].to(z).exp() + self.b_mag[at].to(z)


class Best(Activation):
    """Features compete: of each token ``k`` are kept.

    What a part of the features offers is put together with what others offered, and the best of both are kept.
    """

    k: int
    last: ClassVar[float] = -torch.inf
    """A value that ranks behind all others."""

    def __call__(self, z: Float[Tensor, "tokens feature"]) -> Float[Tensor, "tokens feature"]:
        """The features of tokens, zero where they are not chosen."""
        values, index = self.offered(z)
        return torch.zeros_like(z).scatter(-1, index, self.finished(values))

    def rank(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What they are judged by."""
        return z

    def finished(self, values: Float[Tensor, "tokens k"]) -> Float[Tensor, "tokens k"]:
        """The values of those that were chosen."""
        return values

    def offered(self, z: Float[Tensor, "tokens part"]) -> tuple[Float[Tensor, "tokens k"], Int[Tensor, "tokens k"]]:
        """The best of a part, and where in it they are."""
        index = self.rank(z).topk(min(self.k, z.shape[-1]), dim=-1).indices
        return z.gather(-1, index), index


@dataclass(frozen=True, eq=False)
class TopK(Best):
    """The ``k`` largest of each token; those of them below zero become zero, unless ``relu=False``.

    It makes no difference whether the zeroing comes before or behind the choice.
    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders"; ``relu=False``: circuit-tracer 0.4, ``TopK``.
    """

    k: int
    relu: bool = True

    def finished(self, values: Float[Tensor, "tokens k"]) -> Float[Tensor, "tokens k"]:
        """Zero where they are below."""
        return torch.relu(values) if self.relu else values


@dataclass(frozen=True, eq=False)
class AbsTopK(Best):
    """The ``k`` of each token that are farthest from zero, with their signs. Source: SAELens 6.54, ``abstopk``."""

    k: int
    last: ClassVar[float] = 0.0

    def rank(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The distance from zero."""
        return z.abs()


@dataclass(frozen=True, eq=False)
class GroupMax(Activation):
    """The features lie in ``k`` groups, side by side; the largest of each group is kept, if it is above zero.

    Source: EleutherAI sparsify 1.3, ``activation="groupmax"``.
    """

    k: int

    def __call__(self, z: Float[Tensor, "tokens feature"]) -> Float[Tensor, "tokens feature"]:
        """The features of tokens, zero where they are not chosen."""
        if z.shape[-1] % self.k:
            raise BadConfig(f"{z.shape[-1]} features do not fall into {self.k} groups of one size.", k=self.k)
        values, within = z.reshape(len(z), self.k, -1).max(-1)
        first = torch.arange(self.k, device=z.device) * (z.shape[-1] // self.k)
        return torch.zeros_like(z).scatter(-1, first + within, torch.relu(values))
