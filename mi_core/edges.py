"""Interventions on attention edges: cut them, or reweight them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mi_core.errors import SpecError, ValueMismatch
from mi_core.interventions import Intervention
from mi_core.scene import Scene
from mi_core.vocabulary import CLOSED

__all__ = ["Knockout", "Reweight"]

EVERY = slice(None)


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
    weight and the others share the rest in proportion. Edges that the query does not see stay at zero.
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
        chosen = scene.selection.write(torch.zeros_like(value), self._ones(value, scene)) > 0
        chosen &= value > 0
        before = value.sum(-1, keepdim=True)
        if self.scale is not None:
            new = torch.where(chosen, value * self.scale, value)
            after = new.sum(-1, keepdim=True)
            return torch.where(after > 0, new * (before / after.clamp(min=1e-30)), value * 0)
        assert self.value is not None
        amount = torch.where(chosen, torch.full_like(value, self.value), torch.zeros_like(value))
        taken = amount.sum(-1, keepdim=True)
        if bool((taken > before + 1e-6).any()):
            raise ValueMismatch(
                f"Reweight(value={self.value}) gives a row of {scene.point.name!r} the weight {float(taken.max()):.3g} "
                f"of {float(before.max()):.3g}: set less, or fewer edges.",
                value=self.value,
            )
        others = torch.where(chosen, torch.zeros_like(value), value)
        left = others.sum(-1, keepdim=True)
        rest = torch.where(left > 0, (before - taken) / left.clamp(min=1e-30), torch.zeros_like(left))
        changed = chosen.any(-1, keepdim=True)
        return torch.where(changed, amount + others * rest, value)

    def _ones(self, value: Tensor, scene: Scene) -> Tensor:
        return torch.ones(scene.selection.sizes(value.shape), dtype=value.dtype, device=value.device)


def take_edges(intervention: Any) -> None:
    """Turn the arguments ``query`` and ``key`` into selectors, so that there is one way to say them."""
    for name, dim in (("query", "query_pos"), ("key", "key_pos")):
        selector = getattr(intervention, name)
        if selector is not None and selector != EVERY:
            narrowed = Intervention(selectors=intervention.selectors).at(**{dim: selector}).selectors
            object.__setattr__(intervention, "selectors", narrowed)
        object.__setattr__(intervention, name, None)
