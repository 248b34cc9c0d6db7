"""Activation patching: which activations carry the difference between two prompts?

Reach for it to locate where a model holds what tells a clean prompt from a corrupt one. Patching clean into corrupt
(denoising) finds what is enough; patching corrupt into clean (noising) finds what is needed.

Source: Meng et al. 2022, "Locating and Editing Factual Associations in GPT" (arXiv:2202.05262); the two directions as
in Heimersheim and Nanda 2024, "How to use and interpret activation patching" (arXiv:2404.15255).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

import mi_core as mi
from mi_analyses.first_order import Comparison
from mi_analyses.intervals import mean_interval
from mi_analyses.prompt_pairs import check_lengths, two_sides
from mi_core.analyses import Analysis, require
from mi_core.errors import SelectorError, ValueMismatch
from mi_core.hookspecs import hookimpl
from mi_core.labelled import Label, Labelled
from mi_core.results import Result, ResultProvenance

__all__ = ["ActivationPatching", "activation_patching"]

NEEDS = ("hook_resid_pre",)
CARRIED = "carried"
"""Instead of a site: a recurrent layer's state and shifts together."""
POSITIONS = ("pos", "query_pos", "key_pos")


@dataclass(frozen=True, kw_only=True, eq=True)
class ActivationPatching(Result):
    """What each patch does to the metric. Axes: those of ``each``, then ``batch``: the pairs.

    ``effect`` is 0 where a patch changes nothing, and 1 where it does all that the whole other prompt does.
    """

    effect: Labelled
    """(patched - unpatched) / (other - unpatched), the mean over pairs."""
    interval: Labelled
    """Of the mean effect, by bootstrap over pairs: ``bound`` ("low", "high") and the axes. NaN for one pair."""
    effects: Labelled
    """The effect of each pair."""
    metric: Labelled
    """The metric of each patched run."""
    clean: Labelled
    """The metric of each clean run."""
    corrupt: Labelled
    """The metric of each corrupt run."""
    site: str
    window: int
    """Layers patched together; a block is labelled by its first."""
    noising: bool
    """True: corrupt activations went into the clean run; False: clean ones into the corrupt run."""
    level: float
    """Of the interval."""
    clean_tokens: tuple[tuple[str, ...], ...]
    corrupt_tokens: tuple[tuple[str, ...], ...]

    title: ClassVar[str] = "Activation patching"
    template: ClassVar[str] = "mi_analyses/heat_maps.html"
    views: ClassVar[str] = "mi_analyses.activation_patching_view"


def activation_patching(
    model: mi.Model,
    clean: Any,
    corrupt: Any,
    metric: mi.Metric | Callable[..., Any],
    *,
    site: str = "hook_resid_pre",
    each: Sequence[str] | Mapping[str, Any] | None = None,
    window: int = 1,
    noising: bool = False,
    level: float = 0.95,
    seed: int = 0,
    attention_mask: Any = None,
    batch: int | str = "auto",
    progress: bool | None = None,
) -> ActivationPatching:
    """Which activations carry the difference between clean and corrupt prompts?

    Each cell is one run of the corrupt prompt with one part of its activations taken from the clean one (``noising``:
    the other way round), computed from where it first differs.

    Args:
        model: any model with the site.
        clean: a prompt, or several.
        corrupt: as many; or a `HookSpec` that corrupts the clean ones, such as noise at ``hook_embed``.
        metric: what is measured, such as ``mi.logit_diff(" Paris", " Rome")``; answers for all pairs, or for each.
        site: where, without the layer: ``"hook_resid_pre"``, ``"hook_attn_out"``, ``"attn.hook_z"``, ...; or
            ``"carried"``: all that a recurrent layer hands on to the next position, as in `mi.carried`.
        each: the axes, by name or with their values, as in `mi.patch_grid`; by default layers, and heads where the site
            has them, else positions.
        window: how many layers are patched together.
        noising: patch corrupt activations into the clean run.
        level: of the interval over pairs.
        seed: of the bootstrap.
        attention_mask: as in `Model.run`, for both sides.
        batch: as in `Model.sweep`.
        progress: as in `Model.sweep`.

    Raises:
        UnsupportedAnalysis: the model does not have the site.
        SelectorError: the prompts of a pair are cut into different numbers of tokens, and no spans are named.
        ValueMismatch: the metric does not tell clean from corrupt in some pair.
    """
    sites = [site]
    if site == CARRIED:
        require(model, ["mixer.hook_state"], "activation_patching")
        sites = [name.removeprefix("blocks.*.") for name in mi.carried(model=model)]
    require(model, sites, "activation_patching")
    if not 0 < level < 1:
        raise SelectorError(
            f"level={level!r}: the level of an interval lies between 0 and 1, such as 0.95", level=level
        )
    points = [f"blocks.*.{name}" for name in sites]
    axes = default_axes(model, points) if each is None else each
    base, source = two_sides(clean, corrupt, noising)
    mask = {"attention_mask": attention_mask}
    compared = Comparison.of(model, (base, source), metric, **mask)
    given = compared.run(source, points)
    under = model.run(base.inputs, base.spec, logits=None, **mask)
    tokens = {base.name: under.text_tokens, source.name: given.text_tokens}
    if len(tokens["clean"]) != len(tokens["corrupt"]) or not names_spans(axes):
        check_lengths(tokens["clean"], tokens["corrupt"])
    grid = base.spec + mi.patch_grid(points, source=given, each=axes, window=window)
    swept = model.sweep(base.inputs, grid, metric, batch=batch, progress=progress, **mask)  # type: ignore[arg-type]
    assert swept.baseline is not None
    baselines = {base.name: swept.baseline, source.name: compared.bound(len(given.tokens)).measured(given)}
    effects = effects_of(swept, baselines[base.name], baselines[source.name])
    return ActivationPatching(
        provenance=ResultProvenance.of(model, under, base.spec, base.inputs),
        effect=effects.mean("batch"),
        interval=interval_of(effects, level, seed),
        effects=effects,
        metric=plain(swept),
        **{name: plain(baselines[name]) for name in ("clean", "corrupt")},
        site=site,
        window=window,
        noising=noising,
        level=level,
        clean_tokens=tuple(map(tuple, tokens["clean"])),
        corrupt_tokens=tuple(map(tuple, tokens["corrupt"])),
    )


def default_axes(model: mi.Model, points: list[str]) -> tuple[str, str]:
    """Layers, and heads where the one site has them, else positions."""
    dims = model.hook_points(points)[0].site.dims if len(points) == 1 else ()
    return "layer", next((dim for dim in ("head", "kv_head") if dim in dims), "pos")


def names_spans(axes: Sequence[str] | Mapping[str, Any]) -> bool:
    """Whether the cells say themselves which positions belong together."""
    return isinstance(axes, Mapping) and any(axes.get(name) is not None for name in POSITIONS)


def effects_of(swept: Labelled, base: Labelled, source: Labelled) -> Labelled:
    """How far each patch goes from the base run to the source run, pair by pair."""
    gap = gap_of(base, source)
    return Labelled((swept.values - base.values) / gap, swept.dims, swept.coords, "effect")


def gap_of(base: Labelled, source: Labelled) -> Float[Tensor, "batch"]:
    """The metric of the source run less that of the base run, pair by pair.

    Raises:
        ValueMismatch: they have the same metric in some pair.
    """
    gap = source.values - base.values
    if bool((gap == 0).any()):
        row = int((gap == 0).nonzero()[0])
        raise ValueMismatch(
            f"pair {row}: clean and corrupt have the same {base.name or 'metric'}, {float(base.values[row]):.4g}: "
            "there is no difference to restore. Choose answers that tell the prompts apart.",
            row=row,
        )
    return gap


def interval_of(effects: Labelled, level: float, seed: int) -> Labelled:
    """The bootstrap interval of the mean over pairs."""
    coords: dict[str, Sequence[Label]] = {"bound": ("low", "high")}
    coords |= {dim: effects.coords[dim] for dim in effects.dims[:-1]}
    values = mean_interval(effects.values, level, seed)
    return Labelled(values, ("bound", *effects.dims[:-1]), coords, "interval")


def plain(array: Labelled) -> Labelled:
    """The array without what a sweep keeps beside it."""
    return Labelled(array.values, array.dims, array.coords, array.name, array.unit)


@hookimpl
def mi_analysis() -> Analysis:
    """What the core needs to know about activation patching."""
    return Analysis("Which activations carry the difference between two prompts?", NEEDS, activation_patching)


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi patch``."""
    from mi_analyses.activation_patching_command import patch

    return patch
