"""The recurrence of state-space models: decay and a write, read behind the token's own write; one step, and many.

``S = diag(e^w) S + k v^T``, then ``y = r^T S``. The decay is of each channel, or one for a head (``n`` of it is 1).

Source: Dao and Gu 2024, arXiv:2405.21060, sections 2 and 6; Yang et al. 2024, arXiv:2312.06635.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_recurrent.chunks import boundaries_of, compare, in_chunks, one_after_the_other

__all__ = ["GatedLinear"]


class GatedLinear:
    """``r, log_decay, k, v``, each a vector for each token and head; the state is ``[d_key d_value]``."""

    size = 16
    """Tokens in a chunk."""

    steps_up_to = 4
    """Tokens for which steps are quicker."""

    def step(
        self, inputs: Sequence[Tensor], state: Float[Tensor, "*lead d_key d_value"]
    ) -> tuple[Float[Tensor, "*lead d_value"], Float[Tensor, "*lead d_key d_value"]]:
        """One token: what is read, and the state behind it."""
        r, log_decay, k, v = inputs
        state = state * log_decay.exp()[..., None] + k[..., None] * v[..., None, :]
        return (r[..., None, :] @ state).squeeze(-2), state

    def chunked(
        self, inputs: Sequence[Tensor], state: Float[Tensor, "batch head d_key d_value"]
    ) -> tuple[Float[Tensor, "batch head pos d_value"], Float[Tensor, "batch head boundary d_key d_value"]]:
        """All tokens: what each reads, and the states before each chunk and behind the last."""
        r, log_decay, k, v = (in_chunks(x, self.size) for x in inputs)
        chunk = compare((), (r,), (k,), log_decay)
        boundaries = boundaries_of(chunk, v, state)
        read = chunk.products @ v + chunk.readers @ boundaries[:, :, :-1]
        return one_after_the_other(read, inputs[0].shape[2]), boundaries

    def pattern(self, inputs: Sequence[Tensor]) -> Float[Tensor, "batch head query_pos key_pos"]:
        """What each token reads of each value, without an initial state: the recurrence of unit vectors."""
        pos = inputs[0].shape[2]
        units = torch.eye(pos, dtype=inputs[0].dtype, device=inputs[0].device).expand(*inputs[0].shape[:2], pos, pos)
        read, _ = self.chunked((*inputs[:3], units), self.empty(inputs[0], pos))
        return read

    def empty(
        self, like: Float[Tensor, "batch head pos d_key"], d_value: int
    ) -> Float[Tensor, "batch head d_key d_value"]:
        """The state of rows that have seen nothing."""
        return like.new_zeros(*like.shape[:2], like.shape[-1], d_value)

    def silenced(self, inputs: Sequence[Tensor], pads: Bool[Tensor, "batch 1 pos 1"]) -> tuple[Tensor, ...]:
        """Inputs that leave the state as it is at the pads."""
        r, log_decay, k, v = inputs
        return r, log_decay.masked_fill(pads, 0.0), k.masked_fill(pads, 0.0), v
