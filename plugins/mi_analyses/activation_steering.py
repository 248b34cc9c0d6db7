"""Activation steering: what does adding a vector, or removing its direction, do to what a model says?

Reach for it to test whether a direction means what it seems to mean: a dose-response curve for each layer, what is
written at each dose, and the answer without the direction.

Source: Turner et al. 2023, "Activation Addition" (arXiv:2308.10248), and Rimsky et al. 2023, "Steering Llama 2 via
Contrastive Activation Addition" (arXiv:2312.06681); removal: Arditi et al. 2024, "Refusal in Language Models Is
Mediated by a Single Direction" (arXiv:2406.11717).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

import mi_core as mi
from mi_analyses.activation_patching import plain
from mi_analyses.calibration import dose_for
from mi_analyses.steering_vectors import SteeringVector
from mi_core.analyses import Analysis
from mi_core.errors import InputError
from mi_core.hookspecs import hookimpl
from mi_core.labelled import Label, Labelled
from mi_core.results import Result, ResultProvenance

__all__ = ["ActivationSteering", "activation_steering"]

Vectors = SteeringVector | Mapping[int, SteeringVector]


@dataclass(frozen=True, kw_only=True, eq=True)
class ActivationSteering(Result):
    """What each dose of each vector does to the metric. Axes: layer, strength, batch."""

    response: Labelled
    """The metric under each dose."""
    baseline: Labelled
    """The metric of the model as it is: batch."""
    removed: Labelled | None
    """The metric with the layer's direction removed wherever it is written: layer, batch; None if not asked for."""
    relative: Labelled
    """The length of each layer's vector, in lengths of the activation that it is added to at the last position."""
    layer: int
    """The layer whose doses move the metric most: the one whose texts are written."""
    texts: tuple[tuple[str, ...], ...]
    """The continuations at ``layer``, for each strength one of each prompt; empty if none were asked for."""
    texts_removed: tuple[str, ...]
    """The continuations without the direction of ``layer``."""
    found_strength: float | None
    """The strength at ``layer`` with which the mean metric is the target; None if there was none."""
    found_response: float | None
    """The mean metric that was measured there."""
    vectors: tuple[str, ...]
    """The vectors, in words."""

    title: ClassVar[str] = "Activation steering"
    template: ClassVar[str] = "mi_analyses/steering.html"
    views: ClassVar[str] = "mi_analyses.activation_steering_view"


def activation_steering(
    model: mi.Model,
    inputs: Any,
    vectors: Vectors,
    metric: mi.Metric | Callable[..., Any],
    *,
    strengths: Sequence[float] = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0),
    pos: Any = slice(-1, None),
    remove: bool = False,
    target: float | None = None,
    tolerance: float = 1e-3,
    max_new_tokens: int = 0,
    layer: int | None = None,
    other_model: bool = False,
    attention_mask: Any = None,
    batch: int | str = "auto",
    progress: bool | None = None,
) -> ActivationSteering:
    """What does each dose of a steering vector do, in each layer?

    Args:
        model: the model that the vectors are of.
        inputs: as in `Model.run`.
        vectors: one, or one for each layer: what `steering_vectors` returns, or `SteeringVector.given`.
        metric: what is measured, such as ``mi.logit_diff(" loved", " hated")``.
        strengths: multiples of the vector that are added.
        pos: where, in prompt and answer; by default at every position that predicts a token of the answer.
        remove: also measure with each direction removed, wherever it is written to the stream.
        target: also find the strength at which the mean metric over prompts is this.
        tolerance: how far from the target is near enough, in units of the metric.
        max_new_tokens: also write on, at each dose, so many tokens.
        layer: the layer in which the target is sought and texts are written; None: whose doses move the metric most.
        other_model: take vectors of another model of the same shape.
        attention_mask: as in `Model.run`.
        batch: as in `Model.sweep`.
        progress: as in `Model.sweep`.

    Raises:
        ValueMismatch: a vector does not belong to this model or this width, or the target is out of reach.
        InputError: no vectors or strengths, or a layer that has no vector.
        SelectorError: positions that the prompts do not have.
    """
    held = by_layer(model, vectors)
    doses = tuple(map(float, strengths))
    if not doses or (layer is not None and layer not in held):
        raise InputError(f"strengths={doses}, layer={layer}: give strengths, and one of the layers {sorted(held)}.")
    sweep = Swept(model, inputs, metric, {"attention_mask": attention_mask}, batch, progress)

    def steered(layer: int, strength: float, pos: Any = pos) -> mi.HookSpec:
        return held[layer].steer(model, strength, pos=pos, other_model=other_model)

    swept = sweep.of(mi.grid(steered, layer={one: one for one in held}, strength=doses))
    gone = {one: vector.remove(model, other_model=other_model) for one, vector in held.items()} if remove else {}
    removed = sweep.of(mi.grid(lambda layer: gone[layer], layer={one: one for one in gone})) if gone else None
    best = strongest(swept) if layer is None else layer
    assert swept.baseline is not None

    def mean_at(strength: float) -> float:
        return float(sweep.of([steered(best, strength)]).values.mean())

    means = swept.sel(layer=best).values.mean(-1).tolist()
    dose = None if target is None else dose_for(mean_at, doses, means, target, neutral=0.0, tolerance=tolerance)
    points = [vector.point for vector in held.values()]
    base = model.run(inputs, mi.capture(points).at(pos=-1), attention_mask=attention_mask, logits=None)
    every = len(doses) + remove
    writing = [steered(best, strength, repeated_rows(pos, every)) for strength in doses]
    texts = written(model, inputs, attention_mask, writing + ([gone[best]] if remove else []), max_new_tokens)
    return ActivationSteering(
        provenance=ResultProvenance.of(model, base, mi.HookSpec(), inputs),
        response=plain(swept),
        baseline=plain(swept.baseline),
        removed=None if removed is None else plain(removed),
        relative=relative_lengths(base, held),
        layer=best,
        texts=tuple(texts[: len(doses)]),
        texts_removed=texts[-1] if texts and remove else (),
        found_strength=None if dose is None else dose.strength,
        found_response=None if dose is None else dose.response,
        vectors=tuple(map(repr, held.values())),
    )


@dataclass(frozen=True, eq=False)
class Swept:
    """Sweeps of one input and metric."""

    model: mi.Model
    inputs: Any
    metric: Any
    mask: Mapping[str, Any]
    batch: Any
    progress: bool | None

    def of(self, specs: Any) -> mi.Sweep:
        """The metric of each cell."""
        return self.model.sweep(self.inputs, specs, self.metric, batch=self.batch, progress=self.progress, **self.mask)


def written(
    model: mi.Model, inputs: Any, attention_mask: Any, specs: Sequence[mi.HookSpec], most: int
) -> list[tuple[str, ...]]:
    """What is written behind each prompt under each spec: all of them in one batch."""
    if not specs or not most:
        return []
    rows = len(model.run(inputs, attention_mask=attention_mask, logits=None).tokens)
    spec = sum((each.at(batch=slice(at * rows, (at + 1) * rows)) for at, each in enumerate(specs)), mi.HookSpec())
    mask = None if attention_mask is None else torch.as_tensor(attention_mask).reshape(rows, -1).repeat(len(specs), 1)
    made = model.generate(repeated(inputs, len(specs)), spec, max_new_tokens=most, attention_mask=mask)
    texts = made.text if model.tokenizer is not None else list(map(str, made.new_tokens))
    return [tuple(texts[at : at + rows]) for at in range(0, len(texts), rows)]


def repeated(inputs: Any, times: int) -> Any:
    """The prompts again and again, as a batch.

    >>> repeated("a", 2), repeated([1, 2], 2), repeated(["a", "b"], 2)
    (['a', 'a'], [[1, 2], [1, 2]], ['a', 'b', 'a', 'b'])
    """
    if isinstance(inputs, torch.Tensor):
        return inputs.reshape(-1, inputs.shape[-1]).repeat(times, 1)
    one = not isinstance(inputs, list | tuple) or isinstance(inputs[0], int)
    return [inputs] * times if one else list(inputs) * times


def repeated_rows(pos: Any, times: int) -> Any:
    """A selector whose texts are one for each row, for rows that are there several times.

    >>> repeated_rows(mi.Span(["France", "Spain"]), 2)
    Span(['France', 'Spain', 'France', 'Spain'])
    """
    texts = getattr(pos, "text", None)
    return replace(pos, text=type(texts)(texts * times)) if isinstance(texts, list | tuple) else pos


def by_layer(model: mi.Model, vectors: Vectors) -> dict[int, SteeringVector]:
    """The vectors by the layer of their point.

    Raises:
        InputError: none, two in one layer, or one outside the layers.
    """
    given = [vectors] if isinstance(vectors, SteeringVector) else list(vectors.values())
    found: dict[int, SteeringVector] = {}
    for vector in given:
        at = model.hook_points([vector.point])[0].layer
        if at is None or at in found:
            raise InputError(f"{vector!r}: give vectors in layers, and one for each.", point=vector.point)
        found[at] = vector
    if not found:
        raise InputError("no vectors were given: make some with steering_vectors(model, positive, negative).")
    return found


def strongest(swept: Labelled) -> int:
    """The layer whose doses move the mean metric most."""
    means = swept.values.mean(-1)
    spread = means.amax(1) - means.amin(1)
    label = swept.coords["layer"][int(spread.argmax())]
    assert isinstance(label, int)
    return label


def relative_lengths(base: mi.Run, held: Mapping[int, SteeringVector]) -> Labelled:
    """The length of each vector against the mean length of what it is added to."""
    lengths = [
        vector.norm / float(base[vector.point].float().flatten(1).norm(dim=-1).mean()) for vector in held.values()
    ]
    coords: dict[str, Sequence[Label]] = {"layer": tuple(held)}
    return Labelled(torch.tensor(lengths), ("layer",), coords, "relative length")


@hookimpl
def mi_analysis() -> Analysis:
    """What the core needs to know about activation steering."""
    return Analysis("What does adding a vector do to what the model says?", (), activation_steering)


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi steer``."""
    from mi_analyses.activation_steering_command import steer

    return steer
