"""Tokens and the experts that they go to, sorted so that each expert multiplies all of its tokens at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_core.protocols import Batch, Tap
from mi_decoder.memory import extents

__all__ = ["Dispatch", "tokens_of"]


@dataclass(frozen=True, eq=False)
class Dispatch:
    """Pairs of a token and an expert, in the order of the experts."""

    token: Int[Tensor, "pair"]
    """Which of the flattened ``[batch pos]``."""
    place: Int[Tensor, "pair"]
    """Which of the flattened ``[batch pos slot]``; for pairs beside the slots, which of ``[batch pos expert]``."""
    spans: tuple[tuple[int, int, int], ...]
    """The experts that have tokens, each with the first and the last (exclusive) of its pairs."""
    shape: tuple[int, int, int]
    """``batch``, ``pos`` and ``slot``."""

    @classmethod
    def of_slots(cls, indices: Int[Tensor, "batch pos slot"], tokens: Bool[Tensor, "batch pos"] | None) -> Dispatch:
        """The pairs that a router has chosen; columns that are no ``tokens`` go to no expert."""
        batch, pos, slot = indices.shape
        chosen = indices.flatten()
        order = chosen.argsort(stable=True)
        if tokens is not None:
            order = order[tokens[..., None].expand_as(indices).flatten()[order]]
        return cls(order // slot, order, spans(chosen[order]), (batch, pos, slot))

    @classmethod
    def of_mask(cls, mask: Bool[Tensor, "batch pos expert"]) -> Dispatch:
        """The pairs that a mask marks."""
        batch, pos, n_experts = mask.shape
        expert, token = mask.flatten(0, 1).T.nonzero(as_tuple=True)
        return cls(token, token * n_experts + expert, spans(expert), (batch, pos, n_experts))

    def laid(self, rows: Float[Tensor, "pair d"]) -> Float[Tensor, "batch pos slot d"]:
        """A row for each pair, back where it comes from; zeros elsewhere."""
        batch, pos, slot = self.shape
        zeros = rows.new_zeros(batch * pos * slot, rows.shape[-1])
        return zeros.index_copy_(0, self.place, rows).view(batch, pos, slot, -1)

    def offered(self, name: str, rows: Float[Tensor, "pair d"], tap: Tap) -> Float[Tensor, "pair d"]:
        """A row for each pair behind the point ``name``, which shows them by slot."""
        if not tap.wants(name):
            return rows
        seen = tap(name, self.laid(rows))
        # only read: what the model goes on with is what it has, bit for bit
        return seen.flatten(0, 2)[self.place] if tap.edits(name) else rows


def spans(experts: Int[Tensor, "pair"]) -> tuple[tuple[int, int, int], ...]:
    """The stretches of a sorted list of experts."""
    found, counts = torch.unique_consecutive(experts, return_counts=True)
    stops = counts.cumsum(0)
    return tuple(zip(found.tolist(), (stops - counts).tolist(), stops.tolist(), strict=True))


def tokens_of(batch: Batch, columns: int) -> Bool[Tensor, "batch pos"] | None:
    """Which columns of a call's output are tokens; None where all are, or go to experts without harm."""
    if batch.parts:
        return None
    starts, ends = extents(batch)
    if batch.keep is None and all(end - start == columns for start, end in zip(starts, ends, strict=True)):
        return None
    column = torch.arange(columns, device=batch.length.device)[None] if batch.keep is None else batch.keep
    return column < batch.length[:, None]
