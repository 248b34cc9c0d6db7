"""Ablation: which heads, neurons or layers does an answer need?

Reach for it when there is no second prompt to patch from. Each cell is a run in which one part gives zeros, its mean
over other prompts, or what it gave on one of them; the change of the metric is what the part was needed for, on these
prompts. Zeros may be far from anything that the model has seen; means and resampled values are not.

Source: zero and mean ablation as in Wang et al. 2022, "Interpretability in the Wild" (arXiv:2211.00593); resampling as
in Chan et al. 2022, "Causal Scrubbing".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import mi_core as mi
from mi_analyses.activation_patching import interval_of, plain
from mi_core.analyses import Analysis, require
from mi_core.errors import SelectorError
from mi_core.hookspecs import hookimpl
from mi_core.labelled import Labelled
from mi_core.results import Result, ResultProvenance

__all__ = ["Ablation", "ablation"]

HOW = ("zero", "mean", "resample")


@dataclass(frozen=True, kw_only=True, eq=True)
class Ablation(Result):
    """What the metric loses or gains without each part. Axes: those of ``each``, then ``batch``: the prompts."""

    effect: Labelled
    """(metric without the part) - (metric), the mean over prompts."""
    interval: Labelled
    """Of the mean effect, by bootstrap over prompts: ``bound`` ("low", "high") and the axes. NaN for one prompt."""
    effects: Labelled
    """The effect on each prompt."""
    baseline: Labelled
    """The metric of each prompt: batch."""
    site: str
    how: str
    """"zero", "mean" or "resample"."""
    window: int
    """Layers ablated together; a block is labelled by its first."""
    level: float
    """Of the interval."""
    tokens: tuple[tuple[str, ...], ...]

    title: ClassVar[str] = "Ablation"
    template: ClassVar[str] = "mi_analyses/heat_maps.html"
    views: ClassVar[str] = "mi_analyses.ablation_view"


def ablation(
    model: mi.Model,
    inputs: Any,
    metric: mi.Metric | Callable[..., Any],
    *,
    site: str = "attn.hook_z",
    how: str = "zero",
    reference: Any = None,
    each: Sequence[str] | Mapping[str, Any] | None = None,
    window: int = 1,
    level: float = 0.95,
    seed: int = 0,
    attention_mask: Any = None,
    batch: int | Literal["auto"] = "auto",
    progress: bool | None = None,
) -> Ablation:
    """Which heads, neurons or layers does an answer need?

    Args:
        model: any model with the site.
        inputs: a prompt, or several.
        metric: what is measured, such as ``mi.logit_diff(" Paris", " Rome")``.
        site: ``"attn.hook_z"`` for heads, ``"mlp.hook_post"`` for neurons, ``"hook_attn_out"``, ``"hook_mlp_out"``, ...
        how: ``"zero"``; ``"mean"`` over the reference prompts, at each position; ``"resample"``: what one reference
            prompt, drawn for each row, gives there.
        reference: prompts of as many tokens; by default ``inputs`` themselves. Not for zeros.
        each: the axes, by name or with their values, as in `mi.ablation_grid`: ``("layer", "d_mlp")`` for neurons,
            ``{"layer": [3], "d_mlp": range(20)}`` for some. By default layers, and heads where the site has them.
        window: how many layers are ablated together.
        level: of the interval over prompts.
        seed: of the resampling and of the bootstrap.
        attention_mask: as in `Model.run`.
        batch: as in `Model.sweep`.
        progress: as in `Model.sweep`.

    Raises:
        UnsupportedAnalysis: the model does not have the site.
        SelectorError: no such way, a reference for zeros, one prompt where a mean or another prompt is needed, or an
            axis that the site does not have.
        ValueMismatch: the reference prompts are cut into other numbers of tokens.
    """
    require(model, [site], "ablation")
    if not 0 < level < 1:
        raise SelectorError(f"level={level!r}: the level of an interval lies between 0 and 1.", level=level)
    points = f"blocks.*.{site}"
    written = intervention(model, points, inputs, how, reference, seed, attention_mask)
    axes = default_axes(model, points) if each is None else each
    grid = mi.ablation_grid(points, intervention=written, each=axes, window=window)
    swept = model.sweep(inputs, grid, metric, attention_mask=attention_mask, batch=batch, progress=progress)
    assert swept.baseline is not None
    changed = swept.values - swept.baseline.values
    effects = Labelled(changed, swept.dims, swept.coords, f"change of {swept.name}", swept.unit)
    under = model.run(inputs, mi.HookSpec(), logits=None, attention_mask=attention_mask)
    return Ablation(
        provenance=ResultProvenance.of(model, under, mi.intervene(points, written), inputs),
        effect=effects.mean("batch"),
        interval=interval_of(effects, level, seed),
        effects=effects,
        baseline=plain(swept.baseline),
        site=site,
        how=how,
        window=window,
        level=level,
        tokens=tuple(map(tuple, under.text_tokens)),
    )


def intervention(
    model: mi.Model, points: str, inputs: Any, how: str, reference: Any, seed: int, attention_mask: Any
) -> mi.Intervention:
    """What is written to a part that is ablated."""
    if how not in HOW:
        raise SelectorError(f"how={how!r}: a part is ablated by {', '.join(HOW)}.", how=how)
    if how == "zero":
        if reference is not None:
            raise SelectorError('how="zero" needs no reference prompts: leave them out, or take how="mean".', how=how)
        return mi.Zero()
    own = {"attention_mask": attention_mask} if reference is None else {}
    given = model.run(inputs if reference is None else reference, mi.capture(points), logits=None, **own)
    if len(given.tokens) < 2:
        raise SelectorError(
            f"how={how!r} needs other prompts: give reference=[...] of as many tokens each, at least two; got "
            f"{len(given.tokens)}.",
            how=how,
        )
    return mi.Mean(given) if how == "mean" else mi.Resample(given, seed=seed)


def default_axes(model: mi.Model, points: str) -> tuple[str, ...]:
    """Layers, and heads where the site has them."""
    dims = model.hook_points(points)[0].site.dims
    return ("layer", *(dim for dim in ("head", "kv_head") if dim in dims))


@hookimpl
def mi_analysis() -> Analysis:
    """What the core needs to know about ablation."""
    return Analysis("Which heads, neurons or layers does an answer need?", ("hook_resid_post",), ablation)


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi ablate``."""
    from mi_analyses.ablation_command import ablate

    return ablate
