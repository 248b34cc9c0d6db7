"""Which pre-activations become active features, and with which values.

An activation is applied to all features at once, or to a part of them at a time: ``part`` says which. Where features
compete (the k largest), what each part offers is put together, and the best of all parts are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_core.errors import BadConfig

__all__ = ["AbsTopK", "Activation", "Gated", "GroupMax", "JumpReLU", "ReLU", "TanhReLU", "TopK"]

ALL = slice(None)


@runtime_checkable
class Activation(Protocol):
    """What turns pre-activations into features."""

    def __call__(self, z: Float[Tensor, "tokens part"], part: slice = ALL) -> Float[Tensor, "tokens part"]:
        """Features, where none competes; of all features where they do."""
        ...


@dataclass(frozen=True, eq=False)
class ReLU:
    """``max(z, 0)``."""

    def __call__(self, z: Float[Tensor, "tokens part"], part: slice = ALL) -> Float[Tensor, "tokens part"]:
        """Each feature alone."""
        return torch.relu(z)


@dataclass(frozen=True, eq=False)
class TanhReLU:
    """``tanh(max(z, 0))``. Source: SAELens 5, ``activation_fn_str="tanh-relu"``."""

    def __call__(self, z: Float[Tensor, "tokens part"], part: slice = ALL) -> Float[Tensor, "tokens part"]:
        """Each feature alone."""
        return torch.tanh(torch.relu(z))


@dataclass(frozen=True, eq=False)
class JumpReLU:
    """``z`` where it is above its threshold, strictly; below zero only with ``relu=False``.

    One threshold for each feature, or one for all: what batch top-k dictionaries are once they are trained.
    Source: Rajamanoharan et al. 2024, "Jumping Ahead", equation 2; ``relu=False``: circuit-tracer 0.4, ``JumpReLU``.
    """

    threshold: Float[Tensor, "feature"] | Float[Tensor, ""] | float
    relu: bool = True

    def __call__(self, z: Float[Tensor, "tokens part"], part: slice = ALL) -> Float[Tensor, "tokens part"]:
        """Each feature alone."""
        return torch.where(z > self.bound(z, part), z, 0)

    def bound(self, z: Tensor, part: slice) -> Tensor:
        """What some features must exceed."""
        held = self.threshold if isinstance(self.threshold, Tensor) else torch.tensor(self.threshold)
        bound = (held[part] if held.ndim else held).to(z)
        return bound.clamp(min=0) if self.relu else bound


@dataclass(frozen=True, eq=False)
class Gated:
    """A feature is on where its gate is above zero, and then as large as its magnitude says.

    The pre-activation is ``z = h W_enc`` without a bias: the gate is ``z + b_gate``, the magnitude
    ``relu(z exp(r_mag) + b_mag)``.
    Source: Rajamanoharan et al. 2024, "Improving Dictionary Learning with Gated Sparse Autoencoders", equations 6, 7.
    """

    b_gate: Float[Tensor, "feature"]
    b_mag: Float[Tensor, "feature"]
    r_mag: Float[Tensor, "feature"]

    def __call__(self, z: Float[Tensor, "tokens part"], part: slice = ALL) -> Float[Tensor, "tokens part"]:
        """Each feature alone."""
        b_gate, b_mag, r_mag = (held[part].to(z) for held in (self.b_gate, self.b_mag, self.r_mag))
        return torch.where(z + b_gate > 0, torch.relu(z * r_mag.exp() + b_mag), 0)


@dataclass(frozen=True, eq=False)
class TopK:
    """The ``k`` largest of each token; those of them below zero become zero, unless ``relu=False``.

    It makes no difference whether the zeroing comes before or behind the choice.
    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders"; ``relu=False``: circuit-tracer 0.4, ``TopK``.
    """

    k: int
    relu: bool = True

    def __call__(self, z: Float[Tensor, "tokens part"], part: slice = ALL) -> Float[Tensor, "tokens part"]:
        """All features at once."""
        return spread(z, *self.best(z))

    def best(self, z: Float[Tensor, "tokens part"]) -> tuple[Float[Tensor, "tokens k"], Int[Tensor, "tokens k"]]:
        """The largest of some features, and which they are."""
        values, index = z.topk(min(self.k, z.shape[-1]), dim=-1)
        return (torch.relu(values) if self.relu else values), index


@dataclass(frozen=True, eq=False)
class AbsTopK:
    """The ``k`` of each token that are farthest from zero, with their signs. Source: SAELens 6.54, ``abstopk``."""

    k: int

    def __call__(self, z: Float[Tensor, "tokens part"], part: slice = ALL) -> Float[Tensor, "tokens part"]:
        """All features at once."""
        return spread(z, *self.best(z))

    def best(self, z: Float[Tensor, "tokens part"]) -> tuple[Float[Tensor, "tokens k"], Int[Tensor, "tokens k"]]:
        """Those farthest from zero, and which they are."""
        index = z.abs().topk(min(self.k, z.shape[-1]), dim=-1).indices
        return z.gather(-1, index), index


@dataclass(frozen=True, eq=False)
class GroupMax:
    """The features lie in ``k`` groups, side by side; the largest of each group is kept, if it is above zero.

    Source: EleutherAI sparsify 1.3, ``activation="groupmax"``.
    """

    k: int

    def __call__(self, z: Float[Tensor, "tokens part"], part: slice = ALL) -> Float[Tensor, "tokens part"]:
        """All features at once."""
        if z.shape[-1] % self.k:
            raise BadConfig(f"{z.shape[-1]} features do not fall into {self.k} groups of one size.", k=self.k)
        values, within = torch.relu(z).reshape(len(z), self.k, -1).max(-1)
        first = torch.arange(self.k, device=z.device) * (z.shape[-1] // self.k)
        return spread(z, values, first + within)


def spread(
    z: Float[Tensor, "tokens part"], values: Float[Tensor, "tokens k"], index: Int[Tensor, "tokens k"]
) -> Float[Tensor, "tokens part"]:
    """The chosen values at their features, zeros elsewhere."""
    return torch.zeros_like(z).scatter(-1, index, values)
