"""A matrix that is kept as the product of two: products, singular values and eigenvalues without forming it."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from mi_core.errors import ValueMismatch

__all__ = ["FactoredMatrix"]


class FactoredMatrix:
    """``A @ B``, with any leading dims that broadcast: ``A [... ldim mdim]``, ``B [... mdim rdim]``.

    >>> matrix = FactoredMatrix(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 0.0]]))
    >>> matrix.AB.tolist(), matrix.eigenvalues.real.tolist()
    ([[3.0, 0.0], [6.0, 0.0]], [3.0])

    Raises:
        ValueMismatch: the two do not fit together.

    Source: TransformerLens 3.9, FactoredMatrix.
    """

    def __init__(self, A: Float[Tensor, "..."], B: Float[Tensor, "..."]) -> None:  # noqa: N803 - their names
        if A.ndim < 2 or B.ndim < 2 or A.shape[-1] != B.shape[-2]:
            raise ValueMismatch(
                f"no product of {list(A.shape)} and {list(B.shape)}: the last dim of A is the second last of B.",
                A=tuple(A.shape),
                B=tuple(B.shape),
            )
        try:
            leading = torch.broadcast_shapes(A.shape[:-2], B.shape[:-2])  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise ValueMismatch(
                f"the leading dims of {list(A.shape)} and {list(B.shape)} do not broadcast.",
                A=tuple(A.shape),
                B=tuple(B.shape),
            ) from error
        self.A = A.broadcast_to(leading + A.shape[-2:])
        self.B = B.broadcast_to(leading + B.shape[-2:])
        self.ldim, self.mdim, self.rdim = A.shape[-2], A.shape[-1], B.shape[-1]
        self.shape = torch.Size((*leading, self.ldim, self.rdim))

    def __repr__(self) -> str:
        return f"FactoredMatrix(shape {list(self.shape)}, inner dim {self.mdim})"

    @property
    def ndim(self) -> int:
        """Dims of the product."""
        return len(self.shape)

    @property
    def has_leading_dims(self) -> bool:
        """Whether it is a stack of matrices."""
        return self.ndim > 2

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        """The two factors."""
        return self.A, self.B

    @property
    def AB(self) -> Float[Tensor, "..."]:  # noqa: N802 - their name
        """The product ``[... ldim rdim]``."""
        return self.A @ self.B

    @property
    def BA(self) -> Float[Tensor, "..."]:  # noqa: N802 - their name
        """The product the other way round ``[... mdim mdim]``; only of square products."""
        if self.ldim != self.rdim:
            raise ValueMismatch(f"BA needs as many rows as columns; {self!r} is not square.", shape=tuple(self.shape))
        return self.B @ self.A

    @property
    def T(self) -> FactoredMatrix:  # noqa: N802 - their name
        """The transposed matrix."""
        return FactoredMatrix(self.B.transpose(-2, -1), self.A.transpose(-2, -1))

    def __matmul__(self, other: Any) -> Any:
        """Times a matrix (still factored), a factored matrix, or a vector ``[rdim]`` (then a tensor)."""
        if isinstance(other, FactoredMatrix):
            return (self @ other.A) @ other.B
        if other.ndim < 2:
            return (self.A @ (self.B @ other[..., None]))[..., 0]
        if self.rdim > self.mdim:
            return FactoredMatrix(self.A, self.B @ other)
        return FactoredMatrix(self.AB, other)

    def __rmatmul__(self, other: Any) -> Any:
        """A matrix or a vector ``[ldim]`` times this."""
        if other.ndim < 2:
            return ((other[..., None, :] @ self.A) @ self.B)[..., 0, :]
        if self.ldim > self.mdim:
            return FactoredMatrix(other @ self.A, self.B)
        return FactoredMatrix(other, self.AB)

    def __mul__(self, scalar: float | Tensor) -> FactoredMatrix:
        return FactoredMatrix(self.A * scalar, self.B)

    __rmul__ = __mul__

    def __getitem__(self, index: Any) -> FactoredMatrix:
        """By leading dims; an int for rows or columns keeps their dim."""
        places = index if isinstance(index, tuple) else (index,)
        leading = self.ndim - 2
        if len(places) > self.ndim or any(place is None or place is Ellipsis for place in places):
            raise ValueMismatch(f"{index!r} is no index of {self!r}: give at most an entry for each dim, in order.")
        front = (*places[:leading], *[slice(None)] * (leading - len(places)))
        rows, columns = (kept_dim(place) for place in (*places[leading:], slice(None), slice(None))[:2])
        return FactoredMatrix(self.A[(*front, rows)], self.B[(*front, slice(None), columns)])

    @cached_property
    def _svd(self) -> tuple[Tensor, Tensor, Tensor]:
        # through the small inner matrix: with A = Ua Sa Va' and B = Ub Sb Vb', that of Sa Va' Ub Sb
        Ua, Sa, Vha = torch.linalg.svd(wide(self.A), full_matrices=False)  # noqa: N806
        Ub, Sb, Vhb = torch.linalg.svd(wide(self.B), full_matrices=False)  # noqa: N806
        left, S, right = torch.linalg.svd(Sa[..., :, None] * (Vha @ Ub) * Sb[..., None, :], full_matrices=False)  # noqa: N806
        return Ua @ left, S, (right @ Vhb).transpose(-2, -1)

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """``U [... ldim k]``, ``S [... k]``, ``V [... rdim k]``: the matrix is ``U S V'``; ``k`` is at most mdim."""
        return self._svd

    @property
    def U(self) -> Float[Tensor, "..."]:  # noqa: N802 - their name
        """Left singular vectors, as columns."""
        return self._svd[0]

    @property
    def S(self) -> Float[Tensor, "..."]:  # noqa: N802 - their name
        """Singular values, the largest first."""
        return self._svd[1]

    @property
    def V(self) -> Float[Tensor, "..."]:  # noqa: N802 - their name
        """Right singular vectors, as columns."""
        return self._svd[2]

    @property
    def eigenvalues(self) -> Complex[Tensor, "..."]:
        """Those of the product that need not be zero ``[... mdim]``: the eigenvalues of BA."""
        found: Tensor = torch.linalg.eigvals(wide(self.BA))
        return found

    def norm(self) -> Float[Tensor, "..."]:
        """The Frobenius norm of each matrix."""
        return self.S.pow(2).sum(-1).sqrt()

    def make_even(self) -> FactoredMatrix:
        """The same matrix with half of each singular value in either factor."""
        root = self.S.sqrt()
        return FactoredMatrix(self.U * root[..., None, :], root[..., :, None] * self.V.transpose(-2, -1))

    def collapse_l(self) -> Float[Tensor, "..."]:
        """The matrix without its left rotation: ``S V'``."""
        return self.S[..., :, None] * self.V.transpose(-2, -1)

    def collapse_r(self) -> Float[Tensor, "..."]:
        """The matrix without its right rotation: ``U S``."""
        return self.U * self.S[..., None, :]

    def unsqueeze(self, dim: int) -> FactoredMatrix:
        """A leading dim of size one."""
        return FactoredMatrix(self.A.unsqueeze(dim), self.B.unsqueeze(dim))

    def get_corner(self, size: int = 3) -> Float[Tensor, "..."]:
        """The first rows and columns."""
        return self.A[..., :size, :] @ self.B[..., :, :size]


def wide(matrix: Tensor) -> Tensor:
    """At least single precision: torch decomposes nothing narrower."""
    return matrix.float() if matrix.dtype.itemsize < 4 else matrix


def kept_dim(place: Any) -> Any:
    """An int as the slice of that one entry.

    >>> kept_dim(2), kept_dim(-1)
    (slice(2, 3, None), slice(-1, None, None))
    """
    return slice(place, place + 1 if place != -1 else None) if isinstance(place, int) else place
