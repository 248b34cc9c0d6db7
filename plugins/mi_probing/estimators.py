"""scikit-learn's estimators as probes: whatever has ``coef_`` and ``intercept_`` after ``fit``. Extra: ``probing``."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.errors import MiError
from mi_probing.closed_forms import keep, prepared
from mi_probing.tasks import Linear, Tasks

__all__ = ["fit_estimator"]


def fit_estimator(
    x: Float[Tensor, "cell example d"], tasks: Tasks, estimator: Any, penalty_name: str, inverted: bool
) -> Linear:
    """A clone of an estimator on each task's standardised activations, in a loop.

    Raises:
        MiError: scikit-learn is not installed.
    """
    try:
        from sklearn.base import clone  # type: ignore[import-untyped]
    except ImportError:
        raise MiError(
            "probes by estimators need scikit-learn, which is not installed: pip install 'mi-core[probing]'."
        ) from None
    tasks, data, made = prepared(x, tasks, True)
    penalty = tasks.penalty.expand(len(x), -1)
    for task in range(len(tasks)):
        used = tasks.weights[task] > 0
        labels, weights = tasks.labels[task, used].cpu().numpy(), tasks.weights[task, used].cpu().numpy()
        seen = ((data.x - data.mean[:, task, None]) / data.scale[:, task, None])[:, used].cpu().numpy()
        rows = []
        for cell, values in enumerate(seen):
            level = float(penalty[cell, task])
            one = clone(estimator)
            if penalty_name:
                one.set_params(**{penalty_name: 1 / level if inverted else level})
            one.fit(values, labels, sample_weight=weights)
            rows.append((torch.as_tensor(one.coef_), torch.as_tensor(one.intercept_)))
        shape = (len(x), tasks.outputs, -1)
        weight, bias = (torch.stack(part).reshape(shape) for part in zip(*rows, strict=True))
        keep(made, task, weight.to(x), bias[..., 0].to(x))
    return data.raw(made)
