"""What happens to activations before they are encoded, and is undone behind the decoder.

A transform keeps nothing: what it must know to be undone is returned, token by token, and travels with the features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from jaxtyping import Float
from torch import Tensor

__all__ = ["Centred", "ConstantNorm", "LayerNorm", "Scaled", "Shifted", "State", "Transform", "Whitened"]

State: TypeAlias = tuple[Tensor, ...]


@runtime_checkable
class Transform(Protocol):
    """One step on the way in, undone on the way out."""

    @property
    def undo(self) -> bool:
        """False: what is decoded stands at another point, where it is not undone."""
        ...

    def into(self, x: Float[Tensor, "tokens d"]) -> tuple[Float[Tensor, "tokens d"], State]:
        """The activations transformed, and what undoing it needs."""
        ...

    def back(self, y: Float[Tensor, "tokens d"], state: State, *, change: bool = False) -> Float[Tensor, "tokens d"]:
        """Undone; of a ``change`` of the reconstruction only what is linear in it."""
        ...


@dataclass(frozen=True, eq=False)
class LayerNorm:
    """Mean zero and standard deviation one, token by token.

    Source: SAELens 6.54, sae.py, ``normalize_activations="layer_norm"``: the deviation is the unbiased one, ``eps`` is
    added to it and not to the variance, and is left out on the way back.
    """

    eps: float = 1e-5
    undo: bool = True

    def into(self, x: Float[Tensor, "tokens d"]) -> tuple[Float[Tensor, "tokens d"], State]:
        """Subtract the mean, divide by the deviation."""
        mean = x.mean(-1, keepdim=True)
        centred = x - mean
        std = centred.std(-1, keepdim=True)
        return centred / (std + self.eps), (mean, std)

    def back(self, y: Float[Tensor, "tokens d"], state: State, *, change: bool = False) -> Float[Tensor, "tokens d"]:
        """Multiply by the deviation, add the mean."""
        mean, std = state
        return y * std if change else y * std + mean


@dataclass(frozen=True, eq=False)
class ConstantNorm:
    """Every token scaled to the norm ``sqrt(d)``.

    Source: SAELens 6.54, sae.py, ``normalize_activations="constant_norm_rescale"``.
    """

    undo: bool = True

    def into(self, x: Float[Tensor, "tokens d"]) -> tuple[Float[Tensor, "tokens d"], State]:
        """Scale to the norm."""
        factor = x.shape[-1] ** 0.5 / x.norm(dim=-1, keepdim=True)
        return x * factor, (factor,)

    def back(self, y: Float[Tensor, "tokens d"], state: State, *, change: bool = False) -> Float[Tensor, "tokens d"]:
        """Divide it out."""
        return y / state[0]


@dataclass(frozen=True, eq=False)
class Scaled:
    """Every token times one number."""

    factor: float
    undo: bool = True

    def into(self, x: Float[Tensor, "tokens d"]) -> tuple[Float[Tensor, "tokens d"], State]:
        """Multiply."""
        return x * self.factor, ()

    def back(self, y: Float[Tensor, "tokens d"], state: State, *, change: bool = False) -> Float[Tensor, "tokens d"]:
        """Divide."""
        return y / self.factor


@dataclass(frozen=True, eq=False)
class Centred:
    """Without the mean over the width: what a model with centred writing weights has there.

    With `Shifted` it is the exact map from a model as published to one whose weights were processed before a
    dictionary was trained on it.
    Source: TransformerLens 3.9, ``center_writing_weights``: what is written to the stream has mean zero.
    """

    undo: bool = True

    def into(self, x: Float[Tensor, "tokens d"]) -> tuple[Float[Tensor, "tokens d"], State]:
        """Subtract the mean."""
        mean = x.mean(-1, keepdim=True)
        return x - mean, (mean,)

    def back(self, y: Float[Tensor, "tokens d"], state: State, *, change: bool = False) -> Float[Tensor, "tokens d"]:
        """Add it."""
        return y if change else y + state[0]


@dataclass(frozen=True, eq=False)
class Shifted:
    """Without a constant: what ``hook_z`` lacks where value biases were folded into the output bias.

    Source: TransformerLens 3.9, ``fold_value_biases``: ``z`` loses ``b_V + ln1.b W_V``, as attention's rows sum to one.
    """

    offset: Float[Tensor, "d"]
    undo: bool = True

    def into(self, x: Float[Tensor, "tokens d"]) -> tuple[Float[Tensor, "tokens d"], State]:
        """Subtract it."""
        return x - self.offset.to(x.dtype), ()

    def back(self, y: Float[Tensor, "tokens d"], state: State, *, change: bool = False) -> Float[Tensor, "tokens d"]:
        """Add it."""
        return y if change else y + self.offset.to(y.dtype)


@dataclass(frozen=True, eq=False)
class Whitened:
    """``(x - mean) matrix``: mean zero and covariance one over a sample; undone by the inverse.

    Source: SAELens 6.54, activation_scaler.py, ``ActivationWhitening``.
    """

    mean: Float[Tensor, "d"]
    matrix: Float[Tensor, "d d"]
    inverse: Float[Tensor, "d d"]
    undo: bool = True

    def into(self, x: Float[Tensor, "tokens d"]) -> tuple[Float[Tensor, "tokens d"], State]:
        """Subtract the mean, multiply by the matrix."""
        return (x - self.mean.to(x.dtype)) @ self.matrix.to(x.dtype), ()

    def back(self, y: Float[Tensor, "tokens d"], state: State, *, change: bool = False) -> Float[Tensor, "tokens d"]:
        """Multiply by the inverse, add the mean."""
        y = y @ self.inverse.to(y.dtype)
        return y if change else y + self.mean.to(y.dtype)
