"""Suppressing and raising a feature: three things that are often called the same and are not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import mi_core as mi
from mi_core.dictionaries import Dictionary
from mi_core.errors import SpecError
from mi_core.sweeping import Sweep
from mi_dictionaries.splicing import POST, splice

__all__ = ["How", "feature_edit", "steering_curve"]

How = Literal["ablate", "clamp", "add"]


def feature_edit(
    dictionary: Dictionary, feature: int, how: How, value: float | None = None, *, pos: Any = None
) -> mi.HookSpec:
    """A spec that suppresses or raises one feature, with everything else left as it is.

    - ``"ablate"``: zero wherever it is active. Where it is not, nothing happens.
    - ``"clamp"``: ``value`` at every selected position, whether it was active there or not.
    - ``"add"``: ``value`` more than it was; a negative one suppresses, and may go below zero.

    Works in `run`, `generate` and `sweep`.

    Args:
        dictionary: one that can be spliced.
        feature: which.
        how: one of the three.
        value: of ``"clamp"`` and ``"add"``.
        pos: positions, as selectors say them; None for all.

    Raises:
        SpecError: no such way, a value where none is needed, or none where one is.
    """
    if how not in ("ablate", "clamp", "add"):
        raise SpecError(f"how={how!r}: ablate, clamp or add.", how=how)
    if (how == "ablate") != (value is None):
        needs = "takes no value" if how == "ablate" else "needs a value"
        raise SpecError(f"{how} {needs}, got {value!r}.", how=how, value=value)
    if not 0 <= feature < dictionary.d_sae:
        raise SpecError(f"feature {feature}: the dictionary has {dictionary.d_sae}, from 0.", feature=feature)
    return splice(dictionary) + mi.intervene(f"{dictionary.site_in}.{POST}", edit_of(feature, how, value, pos))


def edit_of(feature: int, how: How, value: float | None, pos: Any) -> mi.Intervention:
    """The intervention at the point of the features."""
    edit: mi.Intervention = mi.Zero()
    if value is not None:
        edit = mi.Replace(value) if how == "clamp" else mi.Add(value)
    return edit.at(feature=feature) if pos is None else edit.at(feature=feature, pos=pos)


def steering_curve(
    model: mi.Model,
    inputs: Any,
    dictionary: Dictionary,
    feature: int,
    metric: mi.Metric,
    *,
    values: Sequence[float],
    how: How = "add",
    pos: Any = None,
) -> Sweep:
    """What does a metric become as a feature is raised? ``[value batch]``, with the unsteered run as its baseline.

    ``metric`` is ``mi.logit(" Paris")``, ``mi.kl(model.run(inputs))``, or another; ``how`` is ``"clamp"`` or ``"add"``.

    Raises:
        SpecError: another way, which takes no values; or no such feature.
    """
    if how == "ablate":
        raise SpecError("ablating takes no values: there is one run without the feature, and no curve.", how=how)
    feature_edit(dictionary, feature, how, 0.0)  # refuses what it refuses
    point = f"{dictionary.site_in}.{POST}"
    cells = mi.grid(lambda value: mi.intervene(point, edit_of(feature, how, value, pos)), value=[*map(float, values)])
    return model.sweep(inputs, splice(dictionary) + cells, metric, progress=False)
