"""The recurrence of RWKV-4: for each channel a mean of the values, weighted by keys that fade; one step, and many.

A state is a numerator and a denominator, both times ``e^scale``: keys are exponents, so that only their differences
fit into numbers. ``[3 d_head]``: numerator, denominator, scale.

Source: Peng et al. 2023, arXiv:2305.13048, equations 19 to 22 and appendix B (the running maximum).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_recurrent.chunks import cumulative, in_chunks, one_after_the_other

__all__ = ["EMPTY", "WKV4"]

EMPTY = -1e30
"""The scale of a state that has seen nothing. Source: the reference starts with this number."""


class WKV4:
    """``log_decay, k, v, own, gate``: the key plus ``u`` with which a token sees itself, and the write gate."""

    size = 16
    """Tokens in a chunk."""

    steps_up_to = 512
    """Tokens for which steps are quicker: a step is cheap here, pairs of tokens are not."""

    def step(
        self, inputs: Sequence[Tensor], state: Float[Tensor, "*lead 3 d_head"]
    ) -> tuple[Float[Tensor, "*lead d_head"], Float[Tensor, "*lead 3 d_head"]]:
        """One token: what is read, and the state behind it."""
        log_decay, k, v, own, gate = inputs
        top, bottom, scale = state.unbind(-2)
        most = torch.maximum(scale, own).detach()
        old, new = (scale - most).exp(), (own - most).exp()
        read = (old * top + new * v) / (old * bottom + new)
        most = torch.maximum(scale + log_decay, k).detach()
        old, new = (scale + log_decay - most).exp(), (k - most).exp() * gate
        return read, torch.stack((old * top + new * v, old * bottom + new, most), -2)

    def chunked(
        self, inputs: Sequence[Tensor], state: Float[Tensor, "batch head 3 d_head"]
    ) -> tuple[Float[Tensor, "batch head pos d_head"], Float[Tensor, "batch head boundary 3 d_head"]]:
        """All tokens: what each reads, and the states before each chunk and behind the last."""
        fills = (0.0, EMPTY, 0.0, 0.0, 0.0)
        log_decay, k, v, own, gate = (in_chunks(x, self.size, fill) for x, fill in zip(inputs, fills, strict=True))
        after = cumulative(log_decay)
        before = after - log_decay
        token = torch.arange(self.size, device=v.device)
        # exponents of what each token sees of its chunk, [query key d_head], and of what it carries out of it
        within = (before[..., :, None, :] - after[..., None, :, :]).to(k) + k[..., None, :, :]
        within = within.masked_fill((token[:, None] <= token)[..., None], -torch.inf)
        outward = (after[..., -1:, :] - after).to(k) + k
        states = [state]
        last = outward.amax(-2).detach()
        weight = (outward - last[..., None, :]).exp() * gate
        top_own, bottom_own = (weight * v).sum(-2), weight.sum(-2)
        faded = after[..., -1, :].to(k)
        for chunk in range(v.shape[2]):
            top, bottom, scale = states[-1].unbind(-2)
            scale = scale + faded[:, :, chunk]
            most = torch.maximum(scale, last[:, :, chunk]).detach()
            old, new = (scale - most).exp(), (last[:, :, chunk] - most).exp()
            states.append(
                torch.stack(
                    (old * top + new * top_own[:, :, chunk], old * bottom + new * bottom_own[:, :, chunk], most), -2
                )
            )
        boundaries = torch.stack(states, 2)
        top, bottom, scale = (x[..., None, :] for x in boundaries[:, :, :-1].unbind(-2))
        carried = scale + before.to(k)
        most = torch.maximum(torch.maximum(within.amax(-2), carried), own).detach()
        seen = (within - most[..., None, :]).exp() * gate[..., None, :, :]
        old, new = (carried - most).exp(), (own - most).exp()
        read = (torch.einsum("...tjn,...jn->...tn", seen, v) + old * top + new * v) / (
            seen.sum(-2) + old * bottom + new
        )
        return one_after_the_other(read, inputs[0].shape[2]), boundaries

    def pattern(self, inputs: Sequence[Tensor]) -> Float[Tensor, "batch d_head query_pos key_pos"]:
        """What each token reads of each value, without an initial state: one row of weights for each channel."""
        log_decay, k, _, own, gate = (x.squeeze(1) for x in inputs)
        after = log_decay.cumsum(1)
        token = torch.arange(k.shape[1], device=k.device)
        exponents = (after - log_decay)[:, :, None] - after[:, None] + k[:, None]
        here = (token[:, None] == token)[..., None]
        exponents = torch.where(here, own[:, None], exponents).masked_fill(
            (token[:, None] < token)[..., None], -torch.inf
        )
        weights = (exponents - exponents.amax(2, keepdim=True)).exp() * torch.where(here, 1.0, gate[:, None])
        return (weights / weights.sum(2, keepdim=True)).permute(0, 3, 1, 2)

    def empty(self, like: Float[Tensor, "batch head pos d_head"], _: int) -> Float[Tensor, "batch head 3 d_head"]:
        """The state of rows that have seen nothing."""
        none = like.new_zeros(*like.shape[:2], 2, like.shape[-1])
        return torch.cat((none, torch.full_like(none[:, :, :1], EMPTY)), 2)

    def silenced(self, inputs: Sequence[Tensor], pads: Bool[Tensor, "batch 1 pos 1"]) -> tuple[Tensor, ...]:
        """Inputs that leave the state as it is at the pads."""
        log_decay, k, v, own, gate = inputs
        return log_decay.masked_fill(pads, 0.0), k.masked_fill(pads, EMPTY), v, own, gate.masked_fill(pads, 0.0)
