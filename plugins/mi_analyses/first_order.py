"""What first-order estimates are made of: two runs, the gradients of one, and what differs between both.

Source: Nanda 2023, "Attribution Patching: Activation Patching At Industrial Scale" (the estimate); Sundararajan et al.
2017, arXiv:1703.01365, section 3 (gradients along a path); Kramar et al. 2024, "AtP*", arXiv:2403.00745, section 3.1.2
(gradients without layers).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

import mi_core as mi
from mi_analyses.prompt_pairs import Side
from mi_core.labelled import Labelled
from mi_core.metrics import as_metric
from mi_core.names import Point

__all__ = ["Comparison", "Gradients", "gradients_without_layers"]

Gradients = Mapping[str, Tensor]
"""Points and the gradient of the metric with respect to each."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two sides of a model, and what is measured."""

    model: mi.Model
    base: Side
    """What is patched, and where gradients are taken."""
    source: Side
    """What the patches come from."""
    metric: mi.Metric
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of `Model.run`."""

    @classmethod
    def of(cls, model: mi.Model, sides: tuple[Side, Side], metric: Any, **options: Any) -> Comparison:
        """The comparison of two sides, that which is patched first; a plain function is a metric, too."""
        return cls(model, *sides, as_metric(metric), options)

    def run(self, side: Side, reads: Sequence[str], *, grad: bool = False, edit: mi.HookSpec | None = None) -> mi.Run:
        """One side with some points captured, after an edit of its own if one is given."""
        names = list(dict.fromkeys([*reads, *self.metric.reads]))
        spec = side.spec + (edit or mi.HookSpec()) + (mi.capture(names) if names else mi.HookSpec())
        logits: Literal["last", "all"] = "last" if self.metric.pos == -1 else "all"
        return self.model.run(side.inputs, spec, logits=logits, grad=grad, **self.options)

    def bound(self, rows: int) -> Comparison:
        """The same with its answers looked up."""
        return replace(self, metric=self.metric.bound(self.model, rows))

    def measured(self, run: mi.Run) -> Labelled:
        """The metric of each row."""
        return Labelled(self.metric.of(run), ("batch",), {}, self.metric.name, self.metric.unit)

    def runs(
        self, under: mi.Run, given: mi.Run, reads: Sequence[str], steps: int, point: str = "hook_embed"
    ) -> Iterator[mi.Run]:
        """The runs at which gradients are taken: the base run, or ``steps`` on the way to the source run.

        The way is straight between the two values of ``point`` and cut into equal steps; each run is at the middle of
        one.
        """
        if not steps:
            yield under
        for step in range(steps):
            edit = mi.intervene(point, mi.Interpolate(given, (step + 0.5) / steps))
            yield self.run(self.base, reads, grad=True, edit=edit)


def gradients_without_layers(
    run: mi.Run, metric: mi.Metric, points: Sequence[Point], layers: int
) -> Iterator[Gradients]:
    """The gradients at each point, once for each layer: nothing goes back through what that layer writes.

    Points lie inside layers; ``run`` has captured the stream before and after every layer too.
    """
    names = [point.name for point in points]
    after = [f"blocks.{layer}.hook_resid_post" for layer in range(layers)]
    whole = run.grad(metric, [*names, *after])
    for layer in range(layers):
        earlier = [point.name for point in points if (point.layer or 0) < layer]
        own = {point.name: torch.zeros_like(whole[point.name]) for point in points if point.layer == layer}
        # past the layer the stream goes unchanged, and so does its gradient
        past = run.vjp({f"blocks.{layer}.hook_resid_pre": whole[after[layer]]}, earlier) if earlier else {}
        yield {name: whole[name] for name in names} | own | past
