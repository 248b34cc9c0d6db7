"""The recurrence of RWKV-7: decay, a removal along a key, a write; one step, and many at once.

With ``a = -kk`` and ``b = kk * gate`` a head's state changes as ``S = diag(e^w) S + b (a^T S) + k v^T`` and is read
after that, ``y = r^T S``. Gated delta nets are the same recurrence.

Source: Peng et al. 2025, arXiv:2503.14456, equations 16 to 18; the chunked form is the WY representation of Yang et
al. 2024, arXiv:2406.06484, with a decay for each channel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_recurrent.chunks import Compared, compare, in_chunks, one_after_the_other

__all__ = ["WKV7"]


def one_chunk_after_the_other(
    chunk: Compared,
    v: Float[Tensor, "batch head chunk token d_value"],
    own: Float[Tensor, "batch head chunk token d_value"],
    carried: Float[Tensor, "batch head chunk token d_key"],
    state: Float[Tensor, "rows d_key d_value"],
) -> tuple[Float[Tensor, "batch head boundary d_key d_value"], Float[Tensor, "batch head chunk token d_value"]]:
    """The states before each chunk and behind the last, and what each token removes.

    That is what it removes of its own chunk, and what it reads of the state before by its ``carried`` vector.
    """
    lead = v.shape[:2]
    own, carried = own.flatten(0, 1), carried.flatten(0, 1)
    keys, removals = (x.mT.flatten(0, 1) for x in torch.chunk(chunk.writers, 2, -2))
    kept, added = chunk.kept.flatten(0, 1), keys @ v.flatten(0, 1)
    states, taken = [state], []
    for place in range(v.shape[2]):
        taken.append(torch.baddbmm(own[:, place], carried[:, place], states[-1]))
        faded = kept[:, place] * states[-1] + added[:, place]
        states.append(torch.baddbmm(faded, removals[:, place], taken[-1]))
    boundaries, every = torch.stack(states, 1), torch.stack(taken, 1)
    return boundaries.view(*lead, *boundaries.shape[1:]), every.view(*lead, *every.shape[1:])


class WKV7:
    """``r, log_decay, k, v, a, b``, each a vector for each token and head; the state is ``[d_key d_value]``."""

    size = 32
    """Tokens in a chunk."""

    steps_up_to = 8
    """Tokens for which steps are quicker."""

    def step(
        self, inputs: Sequence[Tensor], state: Float[Tensor, "*lead d_key d_value"]
    ) -> tuple[Float[Tensor, "*lead d_value"], Float[Tensor, "*lead d_key d_value"]]:
        """One token: what is read, and the state behind it."""
        r, log_decay, k, v, a, b = inputs
        removed = a[..., None, :] @ state
        state = state * log_decay.exp()[..., None] + b[..., None] * removed + k[..., None] * v[..., None, :]
        return (r[..., None, :] @ state).squeeze(-2), state

    def chunked(
        self, inputs: Sequence[Tensor], state: Float[Tensor, "batch head d_key d_value"]
    ) -> tuple[Float[Tensor, "batch head pos d_value"], Float[Tensor, "batch head boundary d_key d_value"]]:
        """All tokens: what each reads, and the states before each chunk and behind the last."""
        r, log_decay, k, v, a, b = (in_chunks(x, self.size) for x in inputs)
        # what is removed sees what lies before it, what is read sees its own token too
        chunk = compare((a,), (r,), (k, b), log_decay)
        to_remove, to_read = torch.chunk(chunk.products, 2, -2)
        a_k, a_b = torch.chunk(to_remove, 2, -1)
        from_state, reading = torch.chunk(chunk.readers, 2, -2)
        one = torch.eye(self.size, dtype=a_b.dtype, device=a_b.device)
        removed = torch.linalg.solve_triangular(
            one - a_b, torch.cat((a_k @ v, from_state), -1), upper=False, unitriangular=True
        )
        n_values = v.shape[-1]
        boundaries, own = one_chunk_after_the_other(
            chunk, v, removed[..., :n_values], removed[..., n_values:], state.flatten(0, 1)
        )
        read = to_read @ torch.cat((v, own), -2) + reading @ boundaries[:, :, :-1]
        return one_after_the_other(read, inputs[0].shape[2]), boundaries

    def pattern(self, inputs: Sequence[Tensor]) -> Float[Tensor, "batch head query_pos key_pos"]:
        """What each token reads of each value, without an initial state: the recurrence of unit vectors."""
        pos = inputs[0].shape[2]
        units = torch.eye(pos, dtype=inputs[0].dtype, device=inputs[0].device).expand(*inputs[0].shape[:2], pos, pos)
        read, _ = self.chunked((*inputs[:3], units, *inputs[4:]), self.empty(inputs[0], pos))
        return read

    def empty(
        self, like: Float[Tensor, "batch head pos d_key"], d_value: int
    ) -> Float[Tensor, "batch head d_key d_value"]:
        """The state of rows that have seen nothing."""
        return like.new_zeros(*like.shape[:2], like.shape[-1], d_value)

    def silenced(self, inputs: Sequence[Tensor], pads: Bool[Tensor, "batch 1 pos 1"]) -> tuple[Tensor, ...]:
        """Inputs that leave the state as it is at the pads."""
        r, log_decay, k, v, a, b = inputs
        return r, log_decay.masked_fill(pads, 0.0), k.masked_fill(pads, 0.0), v, a, b.masked_fill(pads, 0.0)
