"""How two runs of the same shape differ in what they predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.errors import ValueMismatch

if TYPE_CHECKING:
    from mi_core.run import Run

__all__ = ["Change", "Comparison", "compared"]


@dataclass(frozen=True)
class Change:
    """One token whose probability changed."""

    token: str
    id: int
    before: float
    after: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """What changed from a base run to this one."""

    kl: Float[Tensor, "batch column"]
    """KL(base || this) of the next-token distributions in nats, float32; zero at the pads."""
    changes: tuple[tuple[Change, ...], ...]
    """For each row, the tokens whose probability after the last real token changed most."""
    largest_logit_difference: float
    _last: Float[Tensor, "batch"]

    def __repr__(self) -> str:
        lines = [f"KL(base || this) after the last token: {[round(v, 4) for v in self.kl_last().tolist()]} nats"]
        lines += [", ".join(f"{c.token!r} {c.before:.1%} -> {c.after:.1%}" for c in row) for row in self.changes]
        return "\n".join(lines)

    def kl_last(self) -> Float[Tensor, "batch"]:
        """The divergence at each row's last real token."""
        return self._last


def divergence(base: Float[Tensor, "*where d_vocab"], this: Float[Tensor, "*where d_vocab"]) -> Float[Tensor, "*where"]:
    """KL(base || this) of log-probabilities, in nats; a token that base never says counts nothing."""
    terms = torch.where(base.isneginf(), 0.0, base.exp() * (base - this))
    return terms.sum(-1).clamp(min=0)


def compared(run: Run, base: Run, k: int = 5) -> Comparison:
    """See :meth:`Run.compare`."""
    if run.logits.shape != base.logits.shape or not torch.equal(run.mask, base.mask):
        raise ValueMismatch(
            f"runs of different layouts cannot be compared: {list(run.logits.shape)} and {list(base.logits.shape)} "
            f"({run.text_tokens[0]} and {base.text_tokens[0]})."
        )
    after = run.logits.detach().float().log_softmax(-1)
    before = base.logits.detach().to(after.device).float().log_softmax(-1)
    kl = divergence(before, after)
    if kl.shape == run.mask.shape:
        kl = kl * run.mask.to(kl.device)
    last = run.last_logits.detach().float().log_softmax(-1)
    was = base.last_logits.detach().to(last.device).float().log_softmax(-1)
    kl_last, last, was = divergence(was, last), last.exp(), was.exp()
    rows = []
    for row in range(len(last)):
        ids = (last[row] - was[row]).abs().topk(min(k, last.shape[-1])).indices.tolist()
        rows.append(tuple(Change(run.text_of(i), i, float(was[row, i]), float(last[row, i])) for i in ids))
    difference = float((run.logits.detach().float() - base.logits.detach().to(after.device).float()).abs().max())
    return Comparison(kl.cpu(), tuple(rows), difference, kl_last.cpu())
