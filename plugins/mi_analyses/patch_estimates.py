"""First-order estimates of every patch at a site: gradients times what patches change, summed to the wanted axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

import mi_core as mi
from mi_analyses.attention_changes import KEYS, QUERIES, effects_of_keys, effects_of_queries, patterns_anew
from mi_analyses.first_order import Comparison, Gradients, gradients_without_layers
from mi_core.errors import SelectorError, UnsupportedAnalysis
from mi_core.names import Point

__all__ = ["POSITIONS", "Estimator"]

POSITIONS = ("pos", "query_pos", "key_pos")
STREAM = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")
SUMS = ("sequential", "parallel")


@dataclass(frozen=True, eq=False)
class Estimator:
    """What is estimated of a model, and how."""

    model: mi.Model
    points: tuple[Point, ...]
    axes: tuple[str, ...]
    steps: int
    qk_fix: bool
    grad_drop: bool

    @classmethod
    def of(cls, model: mi.Model, site: str, axes: Sequence[str], *, steps: int, qk_fix: bool, grad_drop: bool) -> Self:
        """The estimator of a site.

        Raises:
            SelectorError: an axis that the site does not have, or no layers among the axes.
            UnsupportedAnalysis: a correction that does not fit site or model.
        """
        made = cls(model, tuple(model.hook_points([f"blocks.*.{site}"])), tuple(axes), steps, qk_fix, grad_drop)
        made.check_axes()
        if qk_fix and site not in QUERIES + KEYS:
            raise UnsupportedAnalysis(
                f"qk_fix is for queries and keys ({', '.join(QUERIES + KEYS)}), not for {site!r}: elsewhere nothing "
                "but the softmax itself would be computed anew.",
                site=site,
            )
        if grad_drop:
            made.check_dropping(site)
        if steps < 0:
            raise SelectorError(f"steps={steps!r}: average no further gradients (0), or so many.", steps=steps)
        return made

    def check_axes(self) -> None:
        """Refuse axes that there are not."""
        dims = self.points[0].site.dims
        known = ("layer", *(dim for dim in dims if dim != "batch"))
        wrong = [axis for axis in self.axes if axis not in known]
        if wrong or "layer" not in self.axes or len(set(self.axes)) != len(self.axes):
            raise SelectorError(
                f"each={self.axes!r}: name 'layer' and any of {', '.join(map(repr, known[1:]))}, once each. A patch of "
                "several layers at once is no sum of their own; see activation_patching with its window.",
                each=self.axes,
            )

    def check_dropping(self, site: str) -> None:
        """Refuse to leave out layers where that has no meaning."""
        reason = ""
        if site in STREAM:
            reason = f"{site!r} is the stream itself, which no layer writes alone"
        elif self.model.shape.n_layers < 2:
            reason = "there is one layer only"
        for layer, rule in enumerate(self.model.shape.residual):
            if rule.kind not in SUMS:
                reason = f"the stream of layer {layer} is no sum of what is written to it ({rule.kind!r})"
        if reason:
            raise UnsupportedAnalysis(f"grad_drop leaves out what layers write: {reason}.", site=site)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that have the site."""
        return tuple(point.layer for point in self.points if point.layer is not None)

    @property
    def reads_of_source(self) -> list[str]:
        """What the run that patches come from captures."""
        return [*self._names, *(["hook_embed"] if self.steps else [])]

    @property
    def reads(self) -> list[str]:
        """What the runs capture at which gradients are taken."""
        names = [*self._names, *(point.name for point in self._followed)]
        if self.qk_fix:
            names += [f"blocks.{layer}.attn.hook_attn_scores" for layer in self.layers]
        if self.qk_fix or self.grad_drop:
            names += [f"blocks.{layer}.hook_resid_pre" for layer in range(self.model.shape.n_layers)]
        if self.grad_drop:
            names += [f"blocks.{layer}.hook_resid_post" for layer in range(self.model.shape.n_layers)]
        return list(dict.fromkeys(names))

    @property
    def _names(self) -> list[str]:
        return [point.name for point in self.points]

    @property
    def _followed(self) -> list[Point]:
        """The points at which gradients are needed."""
        if not self.qk_fix:
            return list(self.points)
        return self.model.hook_points([f"blocks.{layer}.attn.hook_pattern" for layer in self.layers])

    def estimate(self, compared: Comparison, under: mi.Run, given: mi.Run) -> Float[Tensor, "*axes batch"]:
        """What each patch adds to the metric, to first order; with ``grad_drop`` its mean size.

        Source: Kramar et al. 2024, arXiv:2403.00745, equation 3 (the estimate) and section 3.1.2: a part inside a layer
        has no gradient when that layer is left out, so the mean is over one layer less than there are.
        """
        anew = patterns_anew(compared, under, given, self.points) if self.qk_fix else None
        runs = Runs(under, given, anew)
        total: Tensor | None = None
        for run in compared.runs(under, given, self.reads, self.steps):
            found = torch.stack([self.summed(runs, each) for each in self.gradients(run, compared.metric)])
            total = found if total is None else total + found
        assert total is not None
        signed = total / max(1, self.steps)
        return signed.abs().sum(0) / (len(signed) - 1) if self.grad_drop else signed[0]

    def gradients(self, run: mi.Run, metric: mi.Metric) -> Iterator[Gradients]:
        """The gradients at a run; with ``grad_drop`` once for each layer that is left out."""
        if self.grad_drop:
            yield from gradients_without_layers(run, metric, self._followed, self.model.shape.n_layers)
        else:
            yield run.grad(metric, [point.name for point in self._followed])

    def summed(self, runs: Runs, gradients: Gradients) -> Float[Tensor, "*axes batch"]:
        """The estimates with these gradients, on the CPU."""
        parts = [self.part(runs, gradients, point) for point in self.points]
        if any(part.shape != parts[0].shape for part in parts):
            raise SelectorError(f"the layers have different sizes: {[list(part.shape) for part in parts]}.")
        return torch.stack(parts).movedim(0, self.axes.index("layer"))

    def part(self, runs: Runs, gradients: Gradients, point: Point) -> Float[Tensor, "*axes batch"]:
        """One layer's estimates: its axes, then the pairs."""
        dims, product = runs.products(gradients, point)
        wanted = (*(axis for axis in self.axes if axis != "layer"), "batch")
        gone = [axis for axis, dim in enumerate(dims) if dim not in wanted]
        kept = product.sum(gone) if gone else product
        names = [dim for dim in dims if dim in wanted]
        for axis, dim in enumerate(names):
            if dim in POSITIONS:
                kept = left_aligned(kept, runs.under.mask, axis)
        return kept.permute([names.index(dim) for dim in wanted]).cpu()


@dataclass(frozen=True, eq=False)
class Runs:
    """The two runs that differ by the patches, and the one whose patterns were computed anew, if there is one."""

    under: mi.Run
    given: mi.Run
    anew: mi.Run | None

    def products(self, gradients: Gradients, point: Point) -> tuple[tuple[str, ...], Tensor]:
        """Gradients times changes at a point, nothing summed: dims and values."""
        if self.anew is None:
            change = self.given[point.name].float() - self.under[point.name].detach().float()
            return point.site.dims, change * gradients[point.name].float()
        if point.site.name in QUERIES:
            return ("batch", "head", "pos", "key_pos"), effects_of_queries(self.under, self.anew, gradients, point)
        dims = ("batch", point.site.dims[2], "query_pos", "pos")
        return dims, effects_of_keys(self.under, self.anew, gradients, point)


def left_aligned(values: Tensor, mask: Tensor, axis: int) -> Tensor:
    """Columns of an axis as positions: those that every row has. The first axis is the rows'."""
    columns = (~mask).to(torch.int8).argsort(dim=1, stable=True)[:, : int(mask.sum(1).min())].to(values.device)
    moved = values.movedim(axis, 1)
    return moved[torch.arange(len(columns), device=values.device)[:, None], columns].movedim(1, axis)
