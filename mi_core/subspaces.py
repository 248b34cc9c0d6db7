"""Directions and subspaces of the last dim: in float32, or in the activation's dtype if that is wider."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.errors import ValueMismatch

__all__ = ["component", "orthonormal", "unit", "wide"]


def unit(direction: Tensor, x: Tensor, where: str) -> Float[Tensor, "d"]:
    """A direction of length one for the last dim of ``x``."""
    if direction.ndim != 1:
        raise ValueMismatch(
            f"a direction at {where!r} is one vector [{x.shape[-1]}], got {list(direction.shape)}.", point=where
        )
    return orthonormal(direction, x, where)[0]


def orthonormal(basis: Tensor, x: Tensor, where: str) -> Float[Tensor, "k d"]:
    """An orthonormal basis of the span of one vector ``[d]`` or several ``[k d]``; refuses dependent ones."""
    rows = basis.to(device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.shape[-1] != x.shape[-1]:
        raise ValueMismatch(
            f"a direction at {where!r} has {x.shape[-1]} entries ([d] or [k d]), got {list(basis.shape)}.",
            point=where,
            shape=tuple(basis.shape),
        )
    lengths: Tensor = rows.norm(dim=-1, keepdim=True)
    if not bool((lengths > 0).all()) or not bool(torch.isfinite(lengths).all()):
        raise ValueMismatch(f"a direction at {where!r} is zero or not finite.", point=where)
    if len(rows) == 1:
        return rows / lengths
    q: Tensor
    q, r = torch.linalg.qr((rows / lengths).mT)
    if len(rows) > x.shape[-1] or bool((r.diagonal().abs() < 1e-5).any()):
        raise ValueMismatch(
            f"the {len(rows)} vectors given at {where!r} depend on each other: give a basis.", point=where
        )
    return q.mT


def component(x: Tensor, basis: Float[Tensor, "k d"]) -> Tensor:
    """The part of ``x`` inside the span of an orthonormal basis, in ``x``'s dtype."""
    basis = basis.to(wide(x).dtype)
    return (wide(x) @ basis.mT @ basis).to(x.dtype)


def wide(x: Tensor) -> Tensor:
    """``x`` in float32, or in its own dtype if that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
