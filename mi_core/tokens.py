"""The most probable next tokens of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from mi_core.run import Run

__all__ = ["TopTokens", "top_tokens"]


@dataclass(frozen=True, eq=False)
class TopTokens:
    """The most probable tokens, most probable first."""

    ids: Int[Tensor, "*where k"]
    probability: Float[Tensor, "*where k"]
    """Float32."""
    texts: tuple[object, ...]
    """The tokens' texts, nested like ``ids``."""

    def __repr__(self) -> str:
        rows = [self.texts] if self.ids.ndim == 1 else self.texts
        shown = []
        for texts, values in zip(rows, self.probability.reshape(-1, self.ids.shape[-1]).tolist(), strict=False):
            if not isinstance(texts, tuple) or (texts and isinstance(texts[0], tuple)):
                return f"TopTokens({list(self.ids.shape)})"
            shown.append(", ".join(f"{text!r} {value:.1%}" for text, value in zip(texts, values, strict=True)))
        return "\n".join(shown)


def top_tokens(run: Run, k: int, pos: int | None) -> TopTokens:
    """See :meth:`Run.top`."""
    if pos == -1:
        logits = run.last_logits
    else:
        logits = run.logits
        if pos is not None:
            column = columns_of(run, pos)
            logits = logits[torch.arange(len(column), device=logits.device), column.to(logits.device)]
    values, ids = logits.detach().float().softmax(-1).topk(min(k, logits.shape[-1]))
    return TopTokens(ids.cpu(), values.cpu(), nested(run, ids.tolist()))


def columns_of(run: Run, pos: int) -> Tensor:
    """The column of each row's real token ``pos``."""
    from mi_core.selectors import chosen

    counts = run.mask.sum(1).tolist()
    wanted = [chosen(pos, count, dim="pos", where=f"row {row}")[0] for row, count in enumerate(counts)]
    return torch.stack([(run.positions[row] == at).nonzero()[0, 0] for row, at in enumerate(wanted)])


def nested(run: Run, ids: object) -> tuple[object, ...]:
    """Texts for nested lists of ids."""
    assert isinstance(ids, list)
    return tuple(nested(run, item) if isinstance(item, list) else run.text_of(item) for item in ids)
