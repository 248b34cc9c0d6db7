"""Gradients of a run: of a metric, or of cotangents, with respect to captured activations.

The graph starts at the first captured point, so nothing before it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mi_core.errors import MissingActivation, ValueMismatch
from mi_core.metrics import Metric

if TYPE_CHECKING:
    from mi_core.captured import Captured
    from mi_core.run import Run

__all__ = ["gradients", "pulled_back"]


def gradients(run: Run, metric: Metric | Callable[[Tensor], Tensor], points: str | Sequence[str]) -> dict[str, Tensor]:
    """See :meth:`Run.grad`: point -> gradient, in the shape of ``run[point]``.

    Raises:
        MissingActivation: a point was not captured, or the run has no graph.
        ValueMismatch: the metric returned something else than ``[batch]`` or a scalar, or has no gradient.
    """
    logits = run.last_logits.float()
    result = metric.of(run) if isinstance(metric, Metric) else metric(logits)
    if not isinstance(result, Tensor) or result.shape not in ((), (len(logits),)):
        seen = list(result.shape) if isinstance(result, Tensor) else repr(result)
        raise ValueMismatch(
            f"the metric returned {seen} for logits {list(logits.shape)}; it must return [batch] (here "
            f"[{len(logits)}]) or a scalar."
        )
    if logits.requires_grad and not result.requires_grad:
        name = metric.name if isinstance(metric, Metric) else getattr(metric, "__name__", "metric")
        raise ValueMismatch(
            f"the metric {name!r} has no gradient: it counts, or leaves the graph. Differentiate a logit, "
            "a probability or a loss."
        )
    return differentiated(run, [result.sum()], [None], points)


def pulled_back(run: Run, cotangents: Mapping[str, Tensor], points: str | Sequence[str]) -> dict[str, Tensor]:
    """See :meth:`Run.vjp`."""
    outputs: list[Tensor] = []
    weights: list[Tensor | None] = []
    for name, cotangent in cotangents.items():
        value = run.logits if name in ("hook_logits", "logits") and name not in run else run[name]
        if cotangent.shape != value.shape:
            raise ValueMismatch(
                f"the cotangent at {name!r} is {list(cotangent.shape)}, the activation {list(value.shape)}.",
                point=name,
            )
        outputs.append(value)
        weights.append(cotangent.to(value))
    return differentiated(run, outputs, weights, points)


def differentiated(
    run: Run, outputs: list[Tensor], weights: list[Tensor | None], points: str | Sequence[str]
) -> dict[str, Tensor]:
    """The gradient at each point, as the run shows activations."""
    held = [on_path(run, name) for name in matched(run, points)]
    if not any(output.requires_grad for output in outputs):
        raise MissingActivation(
            "this run kept no gradients: run with grad=True and capture the points, or ask only for points before "
            "the output."
        )
    inputs = [captured.path for captured in held if captured.path is not None]
    found = torch.autograd.grad(outputs, inputs, weights, retain_graph=True, allow_unused=True)
    result = {}
    for captured, path, gradient in zip(held, inputs, found, strict=True):
        whole = (torch.zeros_like(path) if gradient is None else gradient).to(outputs[0].device)
        result[captured.point.name] = run._as_shown(captured.selection, captured.selection.gather(whole)[0])
    return result


def matched(run: Run, points: str | Sequence[str]) -> list[str]:
    """The captured points that names or patterns stand for."""
    names = [point.name for point in run._points.match(points)]
    exact = [points] if isinstance(points, str) else list(points)
    if any(mark in name for name in exact for mark in "*{?["):
        names = [name for name in names if name in run]
    if not names:
        raise MissingActivation(f"this run captured none of {exact}.", points=tuple(exact))
    return names


def on_path(run: Run, name: str) -> Captured:
    """A captured point whose tensor is part of the graph."""
    captured = run._find(name, run._captured)
    if captured.path is None or not captured.path.requires_grad:
        raise MissingActivation(
            f"{captured.point.name!r} has no gradient: run with grad=True (and a floating-point site).",
            point=captured.point.name,
        )
    return captured
