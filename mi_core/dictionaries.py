"""What a sparse dictionary is: features read at points of a model, and what they write there or further on.

A plugin of the group ``mi_core.formats`` returns one from `mi_format`; evaluations, splices and attribution graphs
take any object that does what is said here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Dictionary", "FeatureActivations"]


@runtime_checkable
class FeatureActivations(Protocol):
    """Which features are active at which token, and how much."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The dims of the tokens: ``(batch, pos)``, or whatever stood before the width of what was encoded."""
        ...

    @property
    def d_sae(self) -> int:
        """How many features there are."""
        ...

    def dense(self) -> Float[Tensor, "*tokens feature"]:
        """One value for each token and feature."""
        ...

    def sparse(self) -> FeatureActivations:
        """The same, in rows: one ``token`` (counted through ``shape``), ``index`` and ``values`` each."""
        ...


@runtime_checkable
class Dictionary(Protocol):
    """A sparse autoencoder, transcoder, crosscoder, or one layer of a cross-layer transcoder.

    With several reads, what is encoded has a dim of the reads in front of the width; with several writes, so have what
    is decoded and the rows of the decoder.
    """

    @property
    def reads(self) -> Sequence[str]:
        """The points whose values are encoded."""
        ...

    @property
    def writes(self) -> Sequence[str]:
        """The points that the reconstruction is of; for an autoencoder those that it reads."""
        ...

    @property
    def site_in(self) -> str:
        """The first point that it reads."""
        ...

    @property
    def site_out(self) -> str:
        """The first point that it writes."""
        ...

    @property
    def d_in(self) -> int:
        """The width of a point that it reads."""
        ...

    @property
    def d_sae(self) -> int:
        """How many features it has."""
        ...

    @property
    def d_out(self) -> int:
        """The width of a point that it writes."""
        ...

    @property
    def about(self) -> Any:
        """Where it comes from, the conventions it follows, and what looked odd in its files."""
        ...

    def encode(self, x: Float[Tensor, "..."], *, sparse: bool = False) -> FeatureActivations:
        """The features of activations as they are at its reads, with whatever decoding needs to know of them."""
        ...

    def decode(self, features: Any) -> Float[Tensor, "..."]:
        """What the features say that stands at its writes; without the skip connection."""
        ...

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What it makes of activations: decoded features, and the skip connection where it has one."""
        ...

    def encoder_rows(self, indices: Int[Tensor, "n"]) -> Float[Tensor, "n ..."]:
        """The directions in which some features read."""
        ...

    def decoder_rows(self, indices: Int[Tensor, "n"]) -> Float[Tensor, "n ..."]:
        """The directions in which some features write."""
        ...
