"""Feature activations: dense, or as rows of token, feature and value; with what decoding needs to know of the input."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_core.errors import ValueMismatch

__all__ = ["Features"]


@dataclass(frozen=True, eq=False)
class Features:
    """Which features are active at which token, and how much?

    Dense: ``values`` has one entry for each token and feature. Sparse: ``token`` (counted through ``shape``), ``index``
    and ``values`` have one entry for each active pair, in the order of tokens, then features.

    >>> features = Features((2,), 4, torch.tensor([[0.0, 3.0, 0.0, 0.0], [1.0, 0.0, 0.0, 2.0]]))
    >>> features.sparse().token.tolist(), features.sparse().index.tolist()
    ([0, 1, 1], [1, 0, 3])
    >>> features.l0().tolist()
    [1, 2]
    """

    shape: tuple[int, ...]
    """The dims of the tokens: ``(batch, pos)``, or whatever stood before the width of what was encoded."""
    d_sae: int
    values: Float[Tensor, "*tokens feature"] | Float[Tensor, "active"]
    token: Int[Tensor, "active"] | None = None
    index: Int[Tensor, "active"] | None = None
    state: tuple[tuple[Tensor, ...], ...] = ()
    """What each transform of the input (a norm, a centring) must know to be undone, by token."""
    heads: tuple[int, int] | None = None
    """The heads and their width, where what was encoded had them apart."""
    base: Float[Tensor, "rows d"] | None = None
    """What the reconstruction has without any feature: what earlier tokens predicted."""

    def __post_init__(self) -> None:
        if (self.token is None) != (self.index is None):
            raise ValueMismatch("sparse features need both the token and the index of each value.")
        wanted = (*self.shape, self.d_sae) if self.token is None else tuple(self.token.shape)
        if tuple(self.values.shape) != wanted:
            raise ValueMismatch(
                f"values of shape {list(self.values.shape)} do not fit: {list(wanted)} is needed.",
                shape=tuple(self.values.shape),
                wanted=wanted,
            )

    @property
    def is_sparse(self) -> bool:
        """Whether only what is active is held."""
        return self.token is not None

    @property
    def n_tokens(self) -> int:
        """How many tokens were encoded."""
        return math.prod(self.shape)

    def rows(self) -> tuple[Int[Tensor, "active"], Int[Tensor, "active"], Float[Tensor, "active"]]:
        """Token, feature and value of everything that is active."""
        if self.token is not None and self.index is not None:
            return self.token, self.index, self.values
        flat = self.values.reshape(self.n_tokens, self.d_sae)
        token, index = flat.detach().nonzero(as_tuple=True)
        return token, index, flat[token, index]

    def dense(self) -> Float[Tensor, "*tokens feature"]:
        """One value for each token and feature."""
        if not self.is_sparse:
            return self.values
        token, index, values = self.rows()
        flat = values.new_zeros(self.n_tokens, self.d_sae)
        return flat.index_put((token, index), values).reshape(*self.shape, self.d_sae)

    def sparse(self) -> Features:
        """The same, in rows."""
        if self.is_sparse:
            return self
        token, index, values = self.rows()
        return dataclasses.replace(self, values=values, token=token, index=index)

    def with_values(self, values: Tensor) -> Features:
        """Other values for the same tokens (and, where sparse, the same features)."""
        return dataclasses.replace(self, values=values)

    def with_dense(self, values: Float[Tensor, "*tokens feature"]) -> Features:
        """Other values for every feature of the same tokens."""
        return dataclasses.replace(self, values=values, token=None, index=None)

    def l0(self) -> Int[Tensor, "*tokens"]:
        """How many features are active at each token."""
        token, _, values = self.rows()
        return torch.bincount(token[values != 0], minlength=self.n_tokens).reshape(self.shape)
