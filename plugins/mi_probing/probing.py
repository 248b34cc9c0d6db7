"""Probing: in which layer and at which position can a label be read from activations, and is that more than chance?

Reach for it to find where something is represented. What can be read need not be used: `causal_check` asks that.

Source: Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes" (arXiv:1610.01644);
Belinkov 2022, "Probing Classifiers: Promises, Shortcomings, and Advances"; the sources of each control are with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log2
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

import mi_core as mi
from mi_core.analyses import Analysis, require
from mi_core.errors import SelectorError
from mi_core.hookspecs import hookimpl
from mi_core.labelled import Label, Labelled
from mi_core.results import Result, ResultProvenance
from mi_probing.examples import Examples
from mi_probing.measuring import measured
from mi_probing.methods import Method, method_of
from mi_probing.probe import Probe
from mi_probing.protocol import Plan, Protocol
from mi_probing.reading import SITE, Reading, read_examples, untrained
from mi_probing.scoring import majority

__all__ = ["Probing", "probing", "probing_of"]

NEEDS = ("hook_resid_post",)

Axes = Mapping[str, Sequence[Label]]


@dataclass(frozen=True, kw_only=True, eq=True)
class Probing(Result):
    """Scores of probes on held-out groups, beside what they are to be held against. Axes: layer, pos, perhaps head."""

    score: Labelled
    """The accuracy on the test; R² where labels are numbers."""
    interval: Labelled
    """Between which two numbers it lies, 95 %, test groups drawn with replacement: cells, bound."""
    fitted_score: Labelled
    """The score on the examples of the fit."""
    chance: float
    """The score of a guess without activations: always the commonest class; 0 for R²."""
    penalty: Labelled
    """What was chosen on the development part."""
    seen: Labelled | None
    """The score on held-out examples of types that were seen; what the control task is compared with."""
    control: Labelled | None
    """The score of the same fit on labels drawn at random for each type."""
    shuffled: Labelled | None
    """The score of fits on shuffled labels: cells, shuffle."""
    random_model: Labelled | None
    """The score on the same architecture with fresh weights."""
    log_loss: Labelled | None
    """Nats on the test, where the probe gives probabilities."""
    calibration_error: Labelled | None
    """How far confidence is from accuracy, on average over test examples."""
    reliability: Labelled | None
    """For bins of confidence: its mean, the accuracy, the number of examples: cells, bin, measure."""
    bits: Labelled | None
    """The online code length of all labels."""
    uniform_bits: float
    """Their length without activations: log2 of the number of classes for each."""
    weight: Labelled | None
    """Of linear probes, in the units of the activation: cells, output, d."""
    bias: Labelled | None
    class_means: Labelled | None
    """Of the examples of the fit: cells, class, d."""
    classes: tuple[str, ...]
    site: str
    method: str
    examples: tuple[int, int, int]
    """How many there are for training, validation and test."""
    groups: int

    title: ClassVar[str] = "Probing"
    template: ClassVar[str] = "mi_probing/with_charts.html"
    views: ClassVar[str] = "mi_probing.probing_view"

    @property
    def selectivity(self) -> Labelled | None:
        """How far the score on seen types lies above the control task's."""
        return None if self.seen is None or self.control is None else renamed(self.seen - self.control, "selectivity")

    @property
    def compression(self) -> Labelled | None:
        """How many times shorter the labels' code is with activations than without."""
        return None if self.bits is None else renamed(self.uniform_bits / self.bits, "compression")

    @property
    def p_value(self) -> Labelled | None:
        """How often shuffled labels score as high, with the probe itself counted as one of them."""
        if self.shuffled is None:
            return None
        reached = (self.shuffled.values >= self.score.values[..., None]).sum(-1)
        return replace(self.score, values=(1.0 + reached) / (1 + self.shuffled.shape[-1]), name="p value")

    def probe(self, **cell: Any) -> Probe:
        """The probe of one cell: ``result.probe(layer=2, pos="end")``; axes with one place may be left out.

        Raises:
            SelectorError: no such cell, several, or a method that has no direction.
        """
        if self.weight is None or self.bias is None:
            raise SelectorError(f"{self.method} probes are not linear: they have no direction.")
        left = [dim for dim in self.score.dims if dim not in cell and len(self.score.coords[dim]) > 1]
        if left:
            raise SelectorError(f"a probe is of one cell: name {', '.join(left)}, too.", dims=tuple(left))
        at = {dim: cell.get(dim, self.score.coords[dim][0]) for dim in self.score.dims} | cell
        means = torch.zeros(0, 0) if self.class_means is None else self.class_means.sel(**at).values
        source = self.provenance
        layer, pos = at.get("layer"), at.get("pos", "")
        beside = {dim: self.score.place(dim, label) for dim, label in at.items() if dim not in ("layer", "pos")}
        return Probe(
            weight=self.weight.sel(**at).values,
            bias=self.bias.sel(**at).values,
            class_means=means,
            classes=self.classes,
            point=f"blocks.{layer}.{self.site}" if layer is not None else self.site,
            selected=beside,
            pos=str(pos),
            model=source.model,
            family=source.family,
            revision=source.revision,
            method=self.method,
            penalty=float(self.penalty.sel(**at).item()),
            score=float(self.score.sel(**at).item()),
            examples=sum(self.examples[:2]),
        )

    def best(self) -> Probe:
        """The probe of the cell with the highest score; of equals the one with the lowest loss, if it is known."""
        flat = self.score.values.flatten()
        tied = flat == flat.max()
        order = flat if self.log_loss is None else -self.log_loss.values.flatten()
        place = int(torch.where(tied, order, -torch.inf).argmax())
        if not self.score.dims:
            return self.probe()
        places = torch.unravel_index(torch.tensor(place), self.score.values.shape)
        at = {dim: self.score.coords[dim][int(one)] for dim, one in zip(self.score.dims, places, strict=True)}
        return self.probe(**at)


def renamed(array: Labelled, name: str) -> Labelled:
    """The array under another name."""
    return replace(array, name=name)


def probing(
    model: mi.Model,
    inputs: Sequence[Any],
    labels: Sequence[Any] | Tensor,
    *,
    probe: str | Method = "logistic",
    protocol: Protocol | None = None,
    random_model: bool = False,
    **reading: Unpack[Reading],
) -> Probing:
    """Where can a label be read, and is that more than the controls?

    One pass over the prompts reads every cell; fits of folds, penalties and controls share the activations.

    Args:
        model: any model with the site.
        inputs: a list of prompts.
        labels: a class for each prompt (text, bool or int), or floats to regress on.
        probe: a name of `METHODS`, or a method: ``Sparse(k=4)``.
        protocol: splits, folds and controls.
        random_model: also probe the same architecture with fresh weights, with the same splits.
        reading: as `read_examples` takes it: ``groups``, ``types``, ``site``, ``layers``, ``pos``, ``spec``, ``batch``.

    Raises:
        UnsupportedAnalysis: the model does not have the site.
        SelectorError, SpanError: a position that a prompt does not have.
        InputError: labels, groups or folds that do not allow the split; activations that are not finite.
    """
    require(model, [reading.get("site", SITE)], "probing")
    protocol = protocol or Protocol()
    protocol = replace(protocol, device=protocol.device or str(model.device))
    result = probing_of(read_examples(model, inputs, labels, **reading), probe=probe, protocol=protocol)
    if not random_model:
        return result
    fresh = untrained(model, protocol.seed)
    plain = replace(protocol, control=False, shuffles=0, code=False)
    compared = probing_of(read_examples(fresh, inputs, labels, **reading), probe=probe, protocol=plain)
    return replace(result, random_model=renamed(compared.score, f"{compared.score.name} of a random model"))


def probing_of(examples: Examples, *, probe: str | Method = "logistic", protocol: Protocol | None = None) -> Probing:
    """The same for activations that are there already: harvested ones, or any tensor (`Examples.of`).

    Raises:
        InputError: labels, groups or folds that do not allow the split.
    """
    protocol = protocol or Protocol()
    plan = Plan.of(examples, method_of(probe), protocol)
    found = measured(plan)
    classes, split = examples.classes, plan.split
    score = "accuracy" if classes else "R²"

    def array(name: str, title: str, unit: str = "", more: Axes | None = None) -> Labelled | None:
        return None if name not in found else in_cells(examples, found[name], title, unit, more or {})

    def given(name: str, title: str, more: Axes | None = None) -> Labelled:
        return in_cells(examples, found[name], title, "", more or {})

    outputs: Axes = {"output": classes if len(classes) > 2 else (classes[1] if classes else "number",)}
    d: Axes = {"d": range(examples.x.shape[-1])}
    bins: Axes = {"bin": range(protocol.bins), "measure": ("confidence", score, "examples")}
    return Probing(
        provenance=examples.provenance or ResultProvenance(model="given", family=""),
        score=given("score", score),
        interval=given("interval", f"{score}, 95 % interval", {"bound": ("low", "high")}),
        fitted_score=given("fitted_score", f"{score} on the fit's examples"),
        chance=majority(examples.labels, split.development, split.test) if classes else 0.0,
        penalty=given("penalty", "penalty"),
        seen=array("seen", f"{score} on seen types"),
        control=array("control", f"{score} of the control task"),
        shuffled=array("shuffled", f"{score} of shuffled labels", more={"shuffle": range(protocol.shuffles)}),
        random_model=None,
        log_loss=array("log_loss", "log loss", "nats"),
        calibration_error=array("calibration_error", "calibration error"),
        reliability=array("reliability", "reliability", more=bins),
        bits=array("bits", "code length", "bits"),
        uniform_bits=len(examples) * log2(len(classes)) if classes else 0.0,
        weight=array("weight", "weight", more={**outputs, **d}),
        bias=array("bias", "bias", more=outputs),
        class_means=array("class_means", "mean of the class", more={"class": classes, **d}),
        classes=classes,
        site=examples.site,
        method=plan.method.name,
        examples=(int(split.train.sum()), int(split.validation.sum()), int(split.test.sum())),
        groups=len(torch.unique(examples.groups)),
    )


def in_cells(examples: Examples, values: Tensor, name: str, unit: str, more: Axes) -> Labelled:
    """One measure with the cells' axes, and those behind them."""
    coords = {**examples.cells, **{dim: tuple(labels) for dim, labels in more.items()}}
    shaped = values.float().reshape([*examples.shape, *values.shape[1:]])
    return Labelled(shaped, tuple(coords), coords, name, unit)


@hookimpl
def mi_analysis() -> Analysis:
    """What the core needs to know about probing."""
    return Analysis("Where can a label be read from activations, and is that more than controls?", NEEDS, probing)


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi probe``."""
    from mi_probing.probing_command import probe

    return probe
