"""Patterns of any mixer: the weights with which each head reads, and the views of weights that have a sign.

Attention reads with weights that are positive and sum to one. A recurrent layer reads with its effective attention:
weights times values are exactly what is read, but they have a sign and any size. A view makes them comparable, and is
named in every result that shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

import mi_core as mi
from mi_core.analyses import require
from mi_core.errors import SelectorError
from mi_core.names import Point

__all__ = [
    "EFFECTIVE",
    "PATTERN_VIEWS",
    "Patterns",
    "absolute",
    "check_readers",
    "positive",
    "read_patterns",
    "share",
    "signed",
    "sites_of",
]

ATTENTION, EFFECTIVE = "attn.hook_pattern", "mixer.hook_effective_attn"
VALUES = {ATTENTION: "attn.hook_v_per_head", EFFECTIVE: "mixer.hook_v"}
"""What each kind of weight multiplies."""

Weights = Float[Tensor, "batch head query_pos key_pos"]
Values = Float[Tensor, "batch key_pos value_head n"]


def signed(weights: Weights) -> Weights:
    """The weights themselves: times the values they are exactly what is read."""
    return weights


def absolute(weights: Weights) -> Weights:
    """Sizes without signs, each row divided by its sum; a row of zeros stays so.

    >>> absolute(torch.tensor([[[[3.0, -1.0]]]])).tolist()
    [[[[0.75, 0.25]]]]
    """
    return over_sum(weights.abs())


def positive(weights: Weights) -> Weights:
    """What is read with its own sign, each row divided by its sum. Source: candle-mi, effective attention of RWKV.

    >>> positive(torch.tensor([[[[3.0, -1.0]]]])).tolist()
    [[[[1.0, 0.0]]]]
    """
    return over_sum(weights.clamp(min=0.0))


def over_sum(weights: Weights) -> Weights:
    """Each row divided by its sum."""
    total = weights.sum(-1, keepdim=True)
    return weights / total.masked_fill(total == 0.0, 1.0)


def share(weights: Weights, values: Values) -> Float[Tensor, "batch value_head query_pos key_pos"]:
    """The part of what is read that comes from each key: along the direction of the whole, so that rows sum to one.

    Large values count more than small ones; what points against the whole is negative. Weights of each channel, as in
    RWKV-4, become those of the one head.
    """
    v = values.permute(0, 2, 1, 3)  # [batch head key n]
    if weights.shape[1] != v.shape[1]:
        each = weights * v[:, 0].permute(0, 2, 1)[:, :, None]  # [batch channel query key]
        along = (each * each.sum(-1, keepdim=True)).sum(1, keepdim=True)
    else:
        read = weights @ v  # [batch head query n]
        along = weights * (read @ v.mT)
    return over_sum(along)


PATTERN_VIEWS: Mapping[str, Callable[..., Tensor]] = {
    "signed": signed,
    "absolute": absolute,
    "positive": positive,
    "share": share,
}
"""The views by name."""
SIGNLESS = ("absolute", "positive")


@dataclass(frozen=True, eq=False)
class Patterns:
    """The weights of a run, in a view."""

    weights: Float[Tensor, "layer batch head column column_2"]
    """In the view, in the layout of the run: zeros at pads."""
    sizes: Float[Tensor, "layer batch head column column_2"]
    """The same where no weight is negative and rows sum to one or less; else `absolute` of it."""
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    view: str
    of_attention: bool
    """Whether all of it are attention patterns."""
    run: mi.Run
    spec: mi.HookSpec


def check_readers(model: mi.Model, name: str, attention: str = ATTENTION) -> None:
    """Refuse models that have neither effective attention nor this site of ``attention``.

    Raises:
        UnsupportedAnalysis: the message names what is missing.
    """
    if not sites_of(model, EFFECTIVE):
        require(model, (attention,), name)


def read_patterns(
    model: mi.Model,
    inputs: Any,
    *,
    view: str | None = None,
    layer: Any = None,
    head: Sequence[int] | None = None,
    spec: mi.HookSpec | None = None,
    **layout: Any,
) -> Patterns:
    """The weights with which heads read: attention patterns as they are, effective attention as sizes by default.

    ``head`` counts channels where each has its own weights (RWKV-4, view ``"signed"``); in the other views such a layer
    has one head, the mean of its channels.

    Raises:
        UnsupportedAnalysis: the view needs values, which some layer does not offer.
        SelectorError: no such view, layer or head, or layers whose numbers of heads differ.
    """
    if view is not None and view not in PATTERN_VIEWS:
        raise SelectorError(f"there is no view {view!r} of patterns; there are {', '.join(PATTERN_VIEWS)}.", view=view)
    kinds = sites_of(model, ATTENTION, EFFECTIVE)
    chosen = view or ("absolute" if EFFECTIVE in kinds else "signed")
    points = model.hook_points([f"blocks.*.{name}" for name in kinds])
    names = [point.name for point in points]
    if chosen == "share":
        require(model, sorted({VALUES[kind] for kind in kinds}), "the view 'share'")
        names += [value_name(point) for point in points]
    selectors: dict[str, Any] = {} if layer is None else {"layer": layer}
    if head is not None and in_heads(points[0], chosen):
        selectors[points[0].site.dims[1]] = list(head)
    reads = (mi.HookSpec() if spec is None else spec) + mi.capture(names).at(**selectors)
    run = model.run(inputs, reads, logits=None, **layout)
    points = [point for point in points if point.name in run]
    found = [seen(run, point, chosen) for point in points]
    signless = [chosen in SIGNLESS or (point.site.name == ATTENTION and chosen == "signed") for point in points]
    counts = {number_of_heads(point, chosen) for point in points}
    if len(counts) > 1:
        raise SelectorError(
            f"the layers have different numbers of heads, {sorted(counts)!r}: choose layers of one kind.", layer=layer
        )
    heads = range(counts.pop())
    layers = tuple(point.layer for point in points if point.layer is not None)
    labels = tuple(heads) if head is None else tuple(heads[one] for one in head)
    stacked = torch.stack(found)
    of_attention = all(point.site.name == ATTENTION for point in points)
    sized = [weights if known else absolute(weights) for weights, known in zip(found, signless, strict=True)]
    sizes = stacked if all(signless) else torch.stack(sized)
    return Patterns(stacked, sizes, layers, labels, chosen, of_attention, run, reads)


def sites_of(model: mi.Model, *names: str) -> list[str]:
    """Which of these sites the model has."""
    have = {site.name for site in model.backend.sites()}
    return [name for name in names if name in have]


def in_heads(point: Point, view: str) -> bool:
    """Whether a layer's weights are shown head by head, or channel by channel: not as the mean of channels."""
    return point.site.dims[1] == "head" or view == "signed"


def number_of_heads(point: Point, view: str) -> int:
    """How many there are."""
    return point.site.sizes[point.site.dims[1]] if in_heads(point, view) else 1


def value_name(point: Point) -> str:
    """The point of what a layer's weights multiply."""
    return point.name.removesuffix(point.site.name) + VALUES[point.site.name]


def seen(run: mi.Run, point: Point, view: str) -> Weights:
    """A layer's weights in the view."""
    weights = run[point.name].float()
    if view == "share":
        return share(weights, run[value_name(point)].float())
    shown: Weights = PATTERN_VIEWS[view](weights)
    return shown if in_heads(point, view) else shown.mean(1, keepdim=True)
