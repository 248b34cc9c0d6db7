"""Attention over a call in parts: tokens of many rectangles flow together, each rectangle attends for itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.protocols import Batch, Tap

__all__ = ["in_parts"]


def in_parts(
    attend: Callable[..., tuple[Tensor, Any]],
    q: Float[Tensor, "1 head queries d_head"],
    k: Float[Tensor, "1 _ tokens d_head"],
    v: Float[Tensor, "1 _ tokens d_value"],
    batch: Batch,
    tap: Tap,
) -> Float[Tensor, "1 head queries d_value"]:
    """The mixed values of every part, by ``attend(q, k, v, batch, tap, memory)`` on its own rows and memory."""
    mixed: list[Tensor] = []
    asked, seen = 0, 0
    for part in batch.parts:
        rows, columns = part.batch.positions.shape
        queries = columns if part.batch.keep is None else part.batch.keep.shape[1]
        own_q = rectangle(q, asked, rows, queries)
        own_k, own_v = rectangle(k, seen, rows, columns), rectangle(v, seen, rows, columns)
        z, _ = attend(own_q, own_k, own_v, part.batch, tap, part.memory)
        mixed.append(z.transpose(0, 1).flatten(1, 2))
        asked, seen = asked + rows * queries, seen + rows * columns
    return torch.cat(mixed, 1)[None]


def rectangle(
    x: Float[Tensor, "1 head tokens d_head"], begin: int, rows: int, columns: int
) -> Float[Tensor, "rows head columns d_head"]:
    """The tokens of one part, as rows."""
    stretch = x[0, :, begin : begin + rows * columns]
    return stretch.reshape(len(stretch), rows, columns, -1).transpose(0, 1)
