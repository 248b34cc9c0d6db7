"""What dictionaries without a linear encoder share: one decoder, which rebuilds the point that is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from mi_dictionaries.decoding import decoded
from mi_dictionaries.features import Features
from mi_dictionaries.framing import Framed
from mi_dictionaries.rows import rows_of

__all__ = ["Rebuilding"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Rebuilding(Framed):
    """What is read is what is written: ``base + f W_dec + b_dec``, where ``base`` is what the features came with."""

    W_dec: Float[Tensor, "feature d"]
    b_dec: Float[Tensor, "d"] | None = None

    @property
    def shape_in(self) -> tuple[int, ...]:
        """The dims behind those of the tokens, of what is encoded."""
        return (self.W_dec.shape[1],)

    @property
    def shape_out(self) -> tuple[int, ...]:
        """The same, of what is decoded."""
        return self.shape_in

    @property
    def d_sae(self) -> int:
        """How many features it has."""
        return self.W_dec.shape[0]

    def decode(self, features: Any) -> Float[Tensor, "..."]:
        """What the features say that stands at its writes, on top of what they came with."""
        y = decoded(features, self.W_dec, None)
        for more in (features.base, self.b_dec):
            y = y if more is None else y + more.to(y.dtype)
        return self.leave(y, features)

    def decode_change(self, features: Features) -> Float[Tensor, "..."]:
        """How the reconstruction changes by a change of features: without biases, and without what they came with."""
        return self.leave(decoded(features, self.W_dec, None), features, change=True)

    def decoder_rows(self, indices: Int[Tensor, "n"]) -> Float[Tensor, "n d"]:
        """The directions in which some features write."""
        return rows_of(self.W_dec, indices)
