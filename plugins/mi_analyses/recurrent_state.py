"""Recurrent state: what does a layer keep of the tokens that it has read, and for how long?

Reach for it where attention patterns would be looked at in a transformer: a recurrent layer has one state in place of
all keys and values. It tells how large and how rich states are, how fast they fade, what each token leaves in them, and
how far back a token's write still changes what is said next.

Source: Peng et al. 2024 and 2025, arXiv:2404.05892 and arXiv:2503.14456, for the recurrences; the knockout of a token's
write is candle-mi's state knockout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

import mi_core as mi
from mi_analyses.attention_patterns import shared_positions
from mi_analyses.state_measures import (
    QUANTILES,
    by_channel,
    effective_rank,
    half_lives,
    matrix_writes,
    mean_writes,
    norms,
)
from mi_core.analyses import Analysis, require
from mi_core.errors import SelectorError
from mi_core.hookspecs import hookimpl
from mi_core.labelled import Label, Labelled
from mi_core.results import Result, ResultProvenance

__all__ = ["RecurrentState", "recurrent_state"]

STATE, GATE = "mixer.hook_state", "mixer.hook_write_gate"
NEEDS = (STATE, GATE, "mixer.hook_log_decay", "mixer.hook_k", "mixer.hook_v")
REMOVAL = ("mixer.hook_kk", "mixer.hook_a", "mixer.hook_beta")


@dataclass(frozen=True, kw_only=True, eq=True)
class RecurrentState(Result):
    """What each layer keeps. Axes: ``layer``, ``head``, ``batch`` and ``pos`` on real tokens, NaN behind a row's own.

    RWKV-4's state is a mean of the values (``is_mean``): ``norm`` is that of the mean, there is no rank, and a write is
    the share of the mean that a token has when it comes in.
    """

    norm: Labelled
    """Of the state behind each position: layer head batch pos."""
    rank: Labelled
    """Its effective rank, e to the entropy of its singular values: layer head batch pos."""
    half_life: Labelled
    """Tokens in which half of a channel fades, removals aside: layer head quantile, over channels and positions."""
    write: Labelled
    """The size of what each token writes, the norm of its part of the state: layer head batch pos."""
    survival: Labelled
    """Which part of a token's write is left behind a later position: layer head batch pos later."""
    removal: Labelled
    """KL from the next-token distribution to that without a token's write in one layer, nats: layer pos batch."""
    removal_everywhere: Labelled
    """The same without its write in any layer: pos batch."""
    reach: Labelled
    """How many tokens back the farthest token is whose write is missed, -1 if none is: batch."""
    threshold: float
    """From which KL on a write is missed, in nats."""
    is_mean: bool

    title: ClassVar[str] = "Recurrent state"
    template: ClassVar[str] = "mi_analyses/heat_maps.html"
    views: ClassVar[str] = "mi_analyses.recurrent_state_view"


def recurrent_state(
    model: mi.Model,
    inputs: Any,
    *,
    threshold: float = 0.01,
    attention_mask: Any = None,
    batch: int | str = "auto",
    progress: bool | None = None,
) -> RecurrentState:
    """What does each layer keep of the tokens that it has read, and for how long?

    Measures are taken from one run; what a token's write is worth comes from a sweep that closes its write gate, in one
    layer or in all. All states are kept at once: ``[batch pos head d_key d_value]`` in each layer.

    Args:
        model: any model with recurrent layers.
        inputs: as in `Model.run`; of rows of different lengths the positions that all have are swept.
        threshold: the KL in nats from which on a write counts as missed.
        attention_mask: as in `Model.run`.
        batch: as in `Model.sweep`.
        progress: as in `Model.sweep`.

    Raises:
        UnsupportedAnalysis: the model has no recurrent layers with these sites.
        SelectorError: a threshold that is not above zero.
    """
    require(model, NEEDS, "recurrent_state")
    if not threshold > 0:
        raise SelectorError(f"threshold={threshold!r}: give a KL in nats above zero.", threshold=threshold)
    points = model.hook_points([f"blocks.*.{STATE}"])
    have = {site.name for site in model.backend.sites()}
    sites = [*NEEDS, *(site for site in REMOVAL if site in have)]
    reads = mi.capture([f"blocks.{point.layer}.{site}" for point in points for site in sites])
    run = model.run(inputs, reads, logits="last", attention_mask=attention_mask)
    mean = any(point.site.replace_only for point in points)
    layers = [measured(run, f"blocks.{point.layer}.", sites, mean) for point in points]
    mask = {"attention_mask": attention_mask, "batch": batch, "progress": progress}
    gates, metric = f"blocks.*.{GATE}", mi.kl(run)
    gated = [point.layer for point in model.hook_points(gates)]
    which: dict[Any, Any] = {**dict(zip(gated, gated, strict=True)), "all": slice(None)}
    swept = model.sweep(inputs, mi.ablation_grid(gates, each={"layer": which, "pos": None}), metric, **mask)
    each, everywhere = swept.at_places("layer", range(len(gated))), swept.at_place("layer", len(gated))
    axes: dict[str, Sequence[Label]] = {"layer": [point.layer or 0 for point in points]}
    axes |= {"head": range(layers[0]["norm"].shape[0]), "batch": range(len(run.mask))}
    positions = shared_positions(run.text_tokens)

    def labelled(name: str, unit: str = "", **dims: Sequence[Label]) -> Labelled:
        coords = {**axes, **dims} if "quantile" not in dims else {"layer": axes["layer"], "head": axes["head"], **dims}
        return Labelled(torch.stack([layer[name] for layer in layers]), tuple(coords), coords, name, unit)

    return RecurrentState(
        provenance=ResultProvenance.of(model, run, reads, inputs),
        norm=labelled("norm", pos=positions),
        rank=labelled("rank", pos=positions),
        half_life=labelled("half_life", "tokens", quantile=[f"{share:.0%}" for share in QUANTILES]),
        write=labelled("write", pos=positions),
        survival=labelled("survival", pos=positions, later=positions),
        removal=Labelled(each.values, each.dims, each.coords, "KL without a write", "nats"),
        removal_everywhere=Labelled(
            everywhere.values, everywhere.dims, everywhere.coords, "KL without a write", "nats"
        ),
        reach=reach(everywhere.values, run.mask.sum(1).cpu(), threshold),
        threshold=threshold,
        is_mean=mean,
    )


def measured(run: mi.Run, layer: str, sites: Sequence[str], mean: bool) -> dict[str, Tensor]:
    """One layer's measures, ``[head batch pos ...]``."""
    mask = run.mask.cpu()
    names = {site.removeprefix("mixer.hook_"): left_aligned(run[layer + site].float().cpu(), mask) for site in sites}
    state, decay = names.pop("state"), run[layer + "mixer.hook_log_decay"].float().cpu()[mask]
    names, decay = by_channel(names), decay if decay.ndim == 3 else decay[..., None]
    write, survival = mean_writes(state, names) if mean else matrix_writes(names)
    held = (state[..., :1, :] / state[..., 1:2, :]) if mean else state
    per_position = {"norm": norms(held), "rank": effective_rank(state), "write": write}
    if mean:
        per_position["rank"] = torch.full_like(per_position["norm"], torch.nan)
    behind = torch.arange(state.shape[1]) >= mask.sum(1)[:, None]  # [batch pos]
    found = {name: v.masked_fill(behind[..., None], torch.nan).permute(2, 0, 1) for name, v in per_position.items()}
    found["survival"] = survival.masked_fill(behind[:, None, None], torch.nan).transpose(0, 1)
    return {**found, "half_life": half_lives(decay)}


def left_aligned(value: Shaped[Tensor, "batch column *rest"], mask: Tensor) -> Shaped[Tensor, "batch pos *rest"]:
    """The real columns of each row, in order; zeros behind."""
    made = value.new_zeros(len(mask), int(mask.sum(1).max()), *value.shape[2:])
    for row, real in enumerate(mask):
        made[row, : int(real.sum())] = value[row][real]
    return made


def reach(kl: Float[Tensor, "pos batch"], lengths: Tensor, threshold: float) -> Labelled:
    """How many tokens back from the last the first missed write is, in each row."""
    missed = kl.cpu() >= threshold
    first = missed.to(torch.int8).argmax(0)
    back = torch.where(missed.any(0), lengths - 1 - first, -1)
    return Labelled(back, ("batch",), {"batch": tuple(range(len(back)))}, "reach", "tokens")


@hookimpl
def mi_analysis() -> Analysis:
    """What the core needs to know about recurrent states."""
    return Analysis("What does a recurrent layer keep of what it has read?", NEEDS, recurrent_state)


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi state``."""
    from mi_analyses.recurrent_state_command import state

    return state
