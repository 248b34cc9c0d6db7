"""Interventions on attention edges: cut them, or reweight them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mi_core.editing import Intervention
from mi_core.errors import SpecError, ValueMismatch
from mi_core.scene import Scene
from mi_core.selectors import merged
from mi_core.subspaces import wide
from mi_core.vocabulary import CLOSED

__all__ = ["Knockout", "Reweight"]


@dataclass(frozen=True, eq=False, repr=False)
class Knockout(Intervention):
    """Cut attention edges: the queries may not see the keys. A query with nothing left gets zeros.

    ``Knockout(query, key)`` is short for ``Knockout().at(query_pos=query, key_pos=key)``; either may be left out.
    It decides what is blocked together with the mask, whatever else is written to the scores.

    Source: Geva et al. 2023, "Dissecting Recall of Factual Associations in Auto-Regressive Language Models".
    """

    query: Any = None
    key: Any = None

    def __post_init__(self) -> None:
        take_edges(self)

    def apply(self, x: Tensor, scene: Scene) -> Tensor:
        return torch.full_like(x, CLOSED)


@dataclass(frozen=True, eq=False, repr=False)
class Reweight(Intervention):
    """Change attention weights: multiply the selected edges by ``scale``, or set them to ``value``.

    Rows keep their sum. With ``scale`` the whole row is renormalised; with ``value`` the edges get exactly that
    weight and the others share the rest in proportion (where there are no others, the edges share all of it). A row
    whose every edge is set to nothing is zero. Edges that the query does not see stay at zero.
    """

    query: Any = None
    key: Any = None
    scale: float | None = None
    value: float | None = None

    def __post_init__(self) -> None:
        take_edges(self)
        if (self.scale is None) == (self.value is None):
            raise ValueMismatch("Reweight takes either scale= or value=.", scale=self.scale, value=self.value)
        amount = self.scale if self.value is None else self.value
        if amount is None or not amount >= 0:
            raise ValueMismatch(f"Reweight needs a weight of at least 0, got {amount!r}.", weight=amount)

    def check(self, x: Tensor, scene: Scene) -> None:
        """Refuse sites that hold no attention weights."""
        if "key_pos" not in scene.dims or scene.point.site.keeps_masked:
            raise SpecError(
                f"Reweight changes attention weights; {scene.point.name!r} is {scene.point.site.meaning!r}. Use "
                "'blocks.*.attn.hook_pattern'.",
                point=scene.point.name,
            )

    def edit(self, value: Tensor, scene: Scene) -> Tensor:
        """The whole pattern after the change."""
        ones = torch.ones(scene.selection.sizes(value.shape), dtype=torch.bool, device=value.device)
        chosen = scene.selection.write(torch.zeros_like(value, dtype=torch.bool), ones) & (value > 0)
        old = wide(value)
        before = old.sum(-1, keepdim=True)
        if self.scale is not None:
            new = torch.where(chosen, old * self.scale, old)
            new = new * ratio(before, new.sum(-1, keepdim=True))
        else:
            new = self._with_value(value, chosen, scene)
        return torch.where(chosen.any(-1, keepdim=True), new.to(value.dtype), value)

    def _with_value(self, value: Tensor, chosen: Tensor, scene: Scene) -> Tensor:
        assert self.value is not None
        before = wide(value).sum(-1, keepdim=True)
        set_ = torch.where(chosen, torch.full_like(wide(value), self.value), 0.0)
        others = torch.where(chosen, 0.0, wide(value))
        taken, left = set_.sum(-1, keepdim=True), others.sum(-1, keepdim=True)
        # a row sums to one up to the rounding of its dtype
        over = (left > 0) & (taken > before + 4 * torch.finfo(value.dtype).eps)
        if bool(over.any()):
            raise ValueMismatch(
                f"Reweight(value={self.value}) gives a row of {scene.point.name!r} the weight {float(taken.max()):.3g} "
                f"of {float(before.max()):.3g}: set less, or fewer edges.",
                value=self.value,
            )
        rest = others * ratio((before - taken).clamp(min=0), left)
        return torch.where(left > 0, set_ + rest, set_ * ratio(before, taken))


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole``, zero where there is no whole."""
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1.0), 0.0)


def take_edges(intervention: Any) -> None:
    """Turn the arguments ``query`` and ``key`` into selectors, so that there is one way to say them."""
    for name, dim in (("query", "query_pos"), ("key", "key_pos")):
        selector = getattr(intervention, name)
        if selector is not None and not (isinstance(selector, slice) and selector == slice(None)):
            object.__setattr__(intervention, "selectors", merged(intervention.selectors, {dim: selector}))
        object.__setattr__(intervention, name, None)
