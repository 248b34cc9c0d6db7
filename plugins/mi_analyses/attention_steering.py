"""Attention steering: what does the model say when it looks more, or less, at something?

Reach for it to go between leaving attention as it is and cutting it: edges are scaled or set inside the forward pass,
and the row keeps its sum, shared by what the query may see. The share that the edges then have is measured, not
assumed: later layers look at a changed stream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

import mi_core as mi
from mi_analyses.calibration import Dose, dose_for
from mi_core.analyses import Analysis, require
from mi_core.errors import InputError, ValueMismatch
from mi_core.hookspecs import hookimpl
from mi_core.labelled import Label, Labelled
from mi_core.results import Result, ResultProvenance

__all__ = ["AttentionSteering", "attention_steering"]

NEEDS = ("attn.hook_pattern",)
POINTS = "blocks.*.attn.hook_pattern"


@dataclass(frozen=True, kw_only=True, eq=True)
class AttentionSteering(Result):
    """What each dose does to the edges' share of attention and to the metric. Axes: ``scale`` or ``value``, batch."""

    share: Labelled
    """What the queries and heads together give to these keys, of what they give to all; the mean over layers."""
    response: Labelled
    """The metric under each dose."""
    share_before: Labelled
    """The share in the model as it is: batch."""
    baseline: Labelled
    """The metric of the model as it is: batch."""
    found_dose: float | None
    """The dose that gives what was sought: a mean share or a mean metric; None if nothing was."""
    found: float | None
    """What was measured there."""
    edges: str
    """Which edges, in words."""

    title: ClassVar[str] = "Attention steering"
    template: ClassVar[str] = "mi_analyses/heat_maps.html"
    views: ClassVar[str] = "mi_analyses.attention_steering_view"

    @property
    def how(self) -> str:
        """What a dose is: ``"scale"`` or ``"value"``."""
        return self.share.dims[0]


def attention_steering(
    model: mi.Model,
    inputs: Any,
    metric: mi.Metric | Callable[..., Any],
    *,
    key: Any,
    query: Any = -1,
    layers: Any = None,
    heads: Any = None,
    scales: Sequence[float] | None = None,
    values: Sequence[float] | None = None,
    share: float | None = None,
    target: float | None = None,
    tolerance: float = 1e-3,
    attention_mask: Any = None,
) -> AttentionSteering:
    """What does the model say when queries look more, or less, at some keys?

    Args:
        model: any model with attention patterns.
        inputs: as in `Model.run`.
        metric: what is measured, such as ``mi.logit_diff(" Paris", " Rome")``.
        key: the positions that are looked at.
        query: the positions that look; by default the last.
        layers: in which layers; None: all.
        heads: in which heads; None: all.
        scales: factors of the edges' weights, before the row gets its sum back; 0 to 6 if nothing is said.
        values: weights that each edge gets, instead of factors: 0 to 1.
        share: also find the dose at which the mean share over prompts is this.
        target: also find the dose at which the mean metric over prompts is this.
        tolerance: how far from it is near enough.
        attention_mask: as in `Model.run`.

    Raises:
        UnsupportedAnalysis: the model has no attention patterns.
        ValueMismatch: there is no weight to scale, more than all of a row is to be set, or what is sought lies outside
            the doses.
        InputError: both factors and weights, both a share and a target, or no doses.
    """
    require(model, NEEDS, "attention_steering")
    how, doses = doses_of(scales, values)
    if share is not None and target is not None:
        raise InputError("share= and target= are two things to look for: ask for one.", share=share, target=target)
    selectors = {"query_pos": query, "key_pos": key, "head": heads, "layer": layers}
    steered = Steered(model, inputs, metric, how, {d: s for d, s in selectors.items() if s is not None}, attention_mask)
    base, before = steered.run(None)
    if how == "scale" and not bool((before > 0).all()):
        row = int((before <= 0).nonzero()[0])
        raise ValueMismatch(
            f"row {row}: the queries give no attention to these keys, so there is nothing to scale. Name keys that "
            "they may see, or set weights with values=.",
            row=row,
        )
    ran = [(steered.response(run), own) for run, own in map(steered.run, doses)]
    responses, shares = (torch.stack(each) for each in zip(*ran, strict=True))
    dose = None
    if share is not None or target is not None:
        dose = steered.calibrated(doses, shares if target is None else responses, share, target, tolerance)
    axes: dict[str, Sequence[Label]] = {how: doses, "batch": range(len(before))}
    named = steered.metric

    def labelled(numbers: Tensor, dims: tuple[str, ...], name: str, unit: str = "") -> Labelled:
        return Labelled(numbers, dims, {dim: axes[dim] for dim in dims}, name, unit)

    return AttentionSteering(
        provenance=ResultProvenance.of(model, base, mi.HookSpec(), inputs),
        share=labelled(shares, (how, "batch"), "share of attention"),
        response=labelled(responses, (how, "batch"), named.name, named.unit),
        share_before=labelled(before, ("batch",), "share of attention"),
        baseline=labelled(steered.response(base), ("batch",), named.name, named.unit),
        found_dose=None if dose is None else dose.strength,
        found=None if dose is None else dose.response,
        edges=in_words(steered.selectors),
    )


def doses_of(scales: Sequence[float] | None, values: Sequence[float] | None) -> tuple[str, tuple[float, ...]]:
    """What a dose is, and the doses."""
    if scales is not None and values is not None:
        raise InputError("scales= and values= are two ways to steer: give one.", scales=scales, values=values)
    given = scales if values is None else values
    doses = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 6.0) if given is None else tuple(map(float, given))
    if not doses:
        raise InputError("no doses were given: name factors, scales=[0.5, 2], or weights, values=[0.1, 0.5].")
    return ("scale" if values is None else "value"), doses


@dataclass(frozen=True, eq=False)
class Steered:
    """Runs of one input with some edges reweighted."""

    model: mi.Model
    inputs: Any
    given: Any
    how: str
    selectors: Mapping[str, Any]
    mask: Any

    @property
    def metric(self) -> mi.Metric:
        """The metric, as one of ours."""
        return self.given if isinstance(self.given, mi.Metric) else mi.metric(self.given)

    def run(self, dose: float | None) -> tuple[mi.Run, Float[Tensor, "batch"]]:
        """A run with a dose (None: without), and the share of attention that the edges have in it."""
        rows = {dim: selector for dim, selector in self.selectors.items() if dim != "key_pos"}
        spec = mi.capture(POINTS).at(**rows)
        if dose is not None:
            edit: Mapping[str, Any] = {self.how: dose}
            spec = mi.intervene(POINTS, mi.Reweight(**edit).at(**self.selectors)) + spec
        if self.metric.reads:
            spec = spec + mi.capture(list(self.metric.reads))
        logits: Any = "last" if self.metric.pos == -1 else "all"
        run = self.model.run(self.inputs, spec, attention_mask=self.mask, logits=logits)
        patterns = [name for name in run if name.endswith(NEEDS[0]) and name not in self.metric.reads]
        key = self.selectors["key_pos"]
        taken = torch.stack([per_row(run.at(name, key_pos=key)) for name in patterns])
        whole = torch.stack([per_row(run[name]) for name in patterns])
        return run, (taken / whole).mean(0).cpu()

    def response(self, run: mi.Run) -> Float[Tensor, "batch"]:
        """The metric of each row."""
        return self.metric.bound(self.model, len(run.tokens)).of(run).cpu()

    def calibrated(
        self, doses: Sequence[float], seen: Tensor, share: float | None, target: float | None, tolerance: float
    ) -> Dose:
        """The dose at which the mean over rows of the share, or of the metric, is what is wanted."""
        wanted = share if target is None else target
        assert wanted is not None

        def measure(dose: float) -> float:
            run, own = self.run(dose)
            return float((own if target is None else self.response(run)).mean())

        neutral = 1.0 if self.how == "scale" else 0.0
        return dose_for(measure, doses, seen.mean(-1).tolist(), wanted, neutral=neutral, tolerance=tolerance)


def per_row(pattern: Float[Tensor, "batch *edges"]) -> Float[Tensor, "batch"]:
    """What the queries of each row give, all of them together."""
    return pattern.float().reshape(len(pattern), -1).sum(1)


def in_words(selectors: Mapping[str, Any]) -> str:
    """Which edges.

    >>> in_words({"query_pos": -1, "key_pos": mi.Span("France"), "layer": [1]})
    "query -1, key Span('France'), layer [1]"
    """
    return ", ".join(f"{dim.removesuffix('_pos')} {selector!r}" for dim, selector in selectors.items())


@hookimpl
def mi_analysis() -> Analysis:
    """What the core needs to know about attention steering."""
    return Analysis("What does the model say when it looks more, or less, at something?", NEEDS, attention_steering)


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi steer-attention``."""
    from mi_analyses.attention_steering_command import steer_attention

    return steer_attention
