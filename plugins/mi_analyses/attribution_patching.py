"""Attribution patching: what would each patch do, to first order, for all of them at once?

Reach for it where activation patching has too many cells. Two forward passes and one backward pass give every layer,
position, head and neuron an estimate; ``screen`` then runs the largest exactly, and a random sample beside them, which
says how far the estimates can be trusted. They fail where the model is curved between the two prompts: at saturated
attention (``qk_fix``), where effects cancel (``grad_drop``), and over long ways in general (``steps``).

Source: Nanda 2023, "Attribution Patching: Activation Patching At Industrial Scale"; Syed et al. 2023, "Attribution
Patching Outperforms Automated Circuit Discovery" (arXiv:2310.10348); Kramar et al. 2024, "AtP*" (arXiv:2403.00745).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import mi_core as mi
from mi_analyses.activation_patching import default_axes, gap_of, interval_of
from mi_analyses.attention_patterns import shared_positions
from mi_analyses.first_order import Comparison
from mi_analyses.patch_estimates import POSITIONS, Estimator
from mi_analyses.prompt_pairs import check_lengths, two_sides
from mi_analyses.screening import Patches, Screening, screened
from mi_core.analyses import Analysis, require
from mi_core.errors import SelectorError
from mi_core.hookspecs import hookimpl
from mi_core.labelled import Label, Labelled
from mi_core.results import Result, ResultProvenance

__all__ = ["AttributionPatching", "attribution_patching"]

NEEDS = ("hook_resid_pre",)
ALIGN = "Use prompts cut into as many tokens, or activation_patching, which takes spans."


@dataclass(frozen=True, kw_only=True, eq=True)
class AttributionPatching(Result):
    """What each patch does to the metric, estimated. Axes: those of ``each``, then ``batch``: the pairs.

    As in activation patching 0 changes nothing, and 1 does all that the whole other prompt does. With ``grad_drop``
    estimates have no sign.
    """

    effect: Labelled
    """The estimate over (other - unpatched), the mean over pairs."""
    interval: Labelled
    """Of the mean, by bootstrap over pairs: ``bound`` ("low", "high") and the axes. NaN for one pair."""
    effects: Labelled
    """The estimate of each pair."""
    exact: Labelled | None
    """The effect in cells that were run, the mean over pairs; NaN in all others. None without ``screen``."""
    exacts: Labelled | None
    """The same for each pair."""
    chosen: Labelled | None
    """Why a cell was run: 1, it has one of the largest estimates; 2, it was drawn; 3, both. 0: it was not run."""
    rank_correlation: float | None
    """Spearman's, between estimates and exact effects of the drawn cells; None for fewer than three."""
    clean: Labelled
    """The metric of each clean run."""
    corrupt: Labelled
    """The metric of each corrupt run."""
    site: str
    noising: bool
    """True: corrupt activations go into the clean run; False: clean ones into the corrupt run."""
    steps: int
    """Gradients that were averaged on the way between the prompts; 0: the one of the run that is patched."""
    qk_fix: bool
    """Whether patterns were computed anew."""
    grad_drop: bool
    """Whether estimates are means of sizes, with one layer after another left out of the gradient."""
    level: float
    """Of the interval."""
    clean_tokens: tuple[tuple[str, ...], ...]
    corrupt_tokens: tuple[tuple[str, ...], ...]

    title: ClassVar[str] = "Attribution patching"
    template: ClassVar[str] = "mi_analyses/heat_maps.html"
    views: ClassVar[str] = "mi_analyses.attribution_patching_view"


def attribution_patching(
    model: mi.Model,
    clean: Any,
    corrupt: Any,
    metric: mi.Metric | Callable[..., Any],
    *,
    site: str = "hook_resid_pre",
    each: Sequence[str] | None = None,
    noising: bool = False,
    steps: int = 0,
    qk_fix: bool = False,
    grad_drop: bool = False,
    screen: int = 0,
    sample: int | None = None,
    level: float = 0.95,
    seed: int = 0,
    attention_mask: Any = None,
    batch: int | str = "auto",
    progress: bool | None = None,
) -> AttributionPatching:
    """What would each patch do, to first order, for all of them at once?

    The estimate of a cell is the gradient of the metric in the run that is patched, times what the patch changes.

    Args:
        model: any model with the site.
        clean: a prompt, or several.
        corrupt: as many, cut into as many tokens; or a `HookSpec` that corrupts the clean ones.
        metric: what is measured, such as ``mi.logit_diff(" Paris", " Rome")``; it must have a gradient.
        site: where, without the layer: ``"hook_resid_pre"``, ``"attn.hook_z"``, ``"mlp.hook_post"`` (neurons), ...
        each: the axes: ``"layer"`` and dims of the site; what is left out is patched as one. By default layers, and
            heads where the site has them, else positions (those that every pair has).
        noising: patch corrupt activations into the clean run.
        steps: average so many gradients on the way from the embeddings of one prompt to the other's.
        qk_fix: for queries and keys, compute the softmax anew instead of following its gradient.
        grad_drop: the mean size of the estimates with one layer after another left out of the gradient.
        screen: run so many cells exactly: those with the largest estimates.
        sample: and so many drawn at random, from all cells; by default as many as ``screen``.
        level: of the interval over pairs.
        seed: of the bootstrap and the sample.
        attention_mask: as in `Model.run`, for both sides.
        batch: as in `Model.sweep`, of the cells that are run.
        progress: as in `Model.sweep`.

    Raises:
        UnsupportedAnalysis: the model does not have the site, or a correction does not fit it; the message says why.
        SelectorError: the prompts of a pair are cut into different numbers of tokens; an axis that the site lacks.
        ValueMismatch: the metric has no gradient, or does not tell clean from corrupt in some pair.
    """
    require(model, (site, *(("hook_embed",) if steps else ())), "attribution_patching")
    axes = default_axes(model, [f"blocks.*.{site}"]) if each is None else tuple(each)
    estimator = Estimator.of(model, site, axes, steps=steps, qk_fix=qk_fix, grad_drop=grad_drop)
    check_numbers(screen, sample, level)
    base, source = two_sides(clean, corrupt, noising)
    compared = Comparison.of(model, (base, source), metric, attention_mask=attention_mask)
    given = compared.run(source, estimator.reads_of_source)
    under = compared.run(base, estimator.reads, grad=not steps)
    tokens = {base.name: under.text_tokens, source.name: given.text_tokens}
    check_lengths(tokens["clean"], tokens["corrupt"], ALIGN)
    compared = compared.bound(len(under.tokens))
    measured = {base.name: compared.measured(under), source.name: compared.measured(given)}
    gap = gap_of(measured[base.name], measured[source.name])
    estimate = estimator.estimate(compared, under, given)
    effects = Labelled(estimate / (gap.abs() if grad_drop else gap), (*axes, "batch"), coordinates(estimator, under))
    mean = effects.mean("batch")
    found = Screening()
    if screen or sample:
        patches = Patches(compared, given, f"blocks.*.{site}", gap)
        counts = (screen, screen if sample is None else sample)
        found = screened(
            patches, mean, estimator.layers, *counts, seed, unsigned=grad_drop, batch=batch, progress=progress
        )
    return AttributionPatching(
        provenance=ResultProvenance.of(model, under, base.spec, base.inputs),
        effect=mean,
        interval=interval_of(effects, level, seed),
        effects=effects,
        exact=found.exact,
        exacts=found.exacts,
        chosen=found.chosen,
        rank_correlation=found.rank_correlation,
        **{name: measured[name] for name in ("clean", "corrupt")},
        site=site,
        noising=noising,
        steps=steps,
        qk_fix=qk_fix,
        grad_drop=grad_drop,
        level=level,
        clean_tokens=tuple(map(tuple, tokens["clean"])),
        corrupt_tokens=tuple(map(tuple, tokens["corrupt"])),
    )


def check_numbers(screen: int, sample: int | None, level: float) -> None:
    """Refuse numbers of cells below zero, and levels that are none."""
    if screen < 0 or (sample is not None and sample < 0):
        raise SelectorError(f"screen={screen!r}, sample={sample!r}: run no cells (0), or so many.", screen=screen)
    if not 0 < level < 1:
        raise SelectorError(
            f"level={level!r}: the level of an interval lies between 0 and 1, such as 0.95", level=level
        )


def coordinates(estimator: Estimator, under: mi.Run) -> dict[str, Sequence[Label]]:
    """The labels of layers and positions; all else is numbered."""
    positions = shared_positions(under.text_tokens)[: min(map(len, under.text_tokens))]
    found: dict[str, Sequence[Label]] = {dim: positions for dim in estimator.axes if dim in POSITIONS}
    return found | {"layer": estimator.layers}


@hookimpl
def mi_analysis() -> Analysis:
    """What the core needs to know about attribution patching."""
    return Analysis("What would each patch do, to first order, for all of them at once?", NEEDS, attribution_patching)


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi atp``."""
    from mi_analyses.attribution_patching_command import atp

    return atp
