"""Simplicial cones in few dimensions: cut them by hyperplanes through the origin, and measure them.

A network without biases is linear on cones. A simplicial cone in n dimensions is what n rays span with coefficients of
at least zero; a hyperplane cuts it into such cones again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.errors import InputError

__all__ = ["EXACT_UP_TO", "cut", "measure", "orthants"]

EXACT_UP_TO = 3
"""Dimensions in which the share of a cone has a closed form."""
NEAR = 1e-12
"""How far from a hyperplane a ray of length one counts as lying on it."""


def orthants(n: int) -> Float[Tensor, "cone n n"]:
    """All of space, as cones: ``[cone ray n]``."""
    signs = torch.cartesian_prod(*[torch.tensor([1.0, -1.0], dtype=torch.float64)] * n).reshape(-1, n)
    return torch.diag_embed(signs)


def cut(rays: Float[Tensor, "n n"], normal: Float[Tensor, "n"]) -> Iterator[tuple[Float[Tensor, "n n"], int]]:
    """The pieces of a cone on either side of ``normal . x = 0``, each with its side: 1, -1; 0 if it lies within.

    Bisects one edge that crosses the hyperplane after another, so that pieces share no inner point.
    """
    todo = [rays]
    limit = NEAR * float(normal.norm())
    while todo:
        cone = todo.pop()
        height = cone @ normal
        above, below = height > limit, height < -limit
        if not (bool(above.any()) and bool(below.any())):
            yield cone, int(above.any()) - int(below.any())
            continue
        high, low = int(above.to(torch.int8).argmax()), int(below.to(torch.int8).argmax())
        middle = cone[low] * height[high] - cone[high] * height[low]
        middle = middle / middle.norm()
        for replaced in (low, high):
            piece = cone.clone()
            piece[replaced] = middle
            todo.append(piece)


def measure(cones: Float[Tensor, "cone n n"]) -> Float[Tensor, "cone"]:
    """The share of all directions that each cone holds: the chance of a standard normal vector to lie in it.

    >>> measure(orthants(3)).tolist()
    [0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125]

    Source: in three dimensions Van Oosterom and Strackee 1983, "The solid angle of a plane triangle".

    Raises:
        InputError: more than three dimensions, where there is no closed form.
    """
    n = cones.shape[-1]
    unit = cones / cones.norm(dim=-1, keepdim=True)
    volume = torch.linalg.det(unit).abs()
    if n == 1:
        return torch.full((len(cones),), 0.5, dtype=cones.dtype)
    if n == 2:
        return torch.atan2(volume, (unit[:, 0] * unit[:, 1]).sum(-1)) / (2 * math.pi)
    if n == EXACT_UP_TO:
        a, b, c = unit.unbind(1)
        ab, bc, ca = (a * b).sum(-1), (b * c).sum(-1), (c * a).sum(-1)
        return 2 * torch.atan2(volume, 1 + ab + bc + ca) / (4 * math.pi)
    raise InputError(
        f"the share of a cone in {n} dimensions has no closed form: draw inputs and count them.", dimensions=n
    )


def cut_all(cones: Iterable[Tensor], normals: Float[Tensor, "normal n"]) -> list[Tensor]:
    """Cones cut by several hyperplanes, so that each piece lies on one side of each; without what lies within one."""
    pieces = list(cones)
    for normal in normals:
        if float(normal.norm()) > 0:
            pieces = [piece for cone in pieces for piece, _ in cut(cone, normal)]
    return pieces
