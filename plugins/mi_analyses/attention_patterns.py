"""Attention patterns: where does each head look?

Reach for it to get to know the heads of a model on a prompt, and to pick those that are worth a knockout or a patch.
Attention shows where a head reads, not what it does with it.

Source: Clark et al. 2019, "What Does BERT Look At?" (arXiv:1906.04341), for the summaries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

import mi_core as mi
from mi_analyses.pattern_views import check_readers, read_patterns
from mi_core.analyses import Analysis
from mi_core.errors import SelectorError
from mi_core.hookspecs import hookimpl
from mi_core.labelled import Label, Labelled
from mi_core.results import Result, ResultProvenance

__all__ = ["AttentionPatterns", "attention_patterns"]

NEEDS = ("attn.hook_pattern",)
"""Or effective attention, which recurrent layers have instead."""


@dataclass(frozen=True, kw_only=True, eq=True)
class AttentionPatterns(Result):
    """Where each head looks. Axes: ``layer``, ``head``, ``batch``, and ``query_pos``, ``key_pos`` on real tokens.

    Summaries are means over a row's queries from its second token on (the first can look at itself only), NaN for a row
    of one token. A row with fewer positions than others has NaN behind its own.
    """

    pattern: Labelled
    """The weights, in the view: layer head batch query_pos key_pos."""
    entropy: Labelled
    """How spread out a query's weights are, in nats."""
    distance: Labelled
    """How many tokens back a head looks, weighted."""
    to_first: Labelled
    """The weight on the row's first token, which is BOS where the model has one."""
    to_self: Labelled
    """The weight on the query's own token."""
    to_previous: Labelled
    """The weight on the token before the query's."""
    top_weight: Labelled
    """The largest weights of each query: layer head batch query_pos top."""
    top_position: Labelled
    """The positions that have them, -1 where a row has none."""

    to_spans: Labelled | None = None
    """The weight on the tokens of each span, if spans were named: layer head batch query_pos span. ``"NAME_final"`` is
    the last token of a span, ``"other"`` what is in none."""
    view: str = "signed"
    """How weights with a sign are shown, one of `mi_analyses.PATTERN_VIEWS`; attention patterns have none.

    Summaries and largest weights are of their sizes: each row's absolute values over their sum.
    """
    of_attention: bool = True
    """False: some weights are the effective attention of recurrent layers."""

    title: ClassVar[str] = "Attention patterns"
    template: ClassVar[str] = "mi_analyses/attention_patterns.html"
    views: ClassVar[str] = "mi_analyses.attention_patterns_view"


def attention_patterns(
    model: mi.Model,
    inputs: Any,
    *,
    layer: Any = None,
    head: int | Sequence[int] | None = None,
    view: str | None = None,
    top: int = 3,
    spans: Mapping[str, Any] | None = None,
    spec: mi.HookSpec | None = None,
    attention_mask: Any = None,
    position_ids: Any = None,
) -> AttentionPatterns:
    """Where does each head look?

    Args:
        model: any model with attention patterns, or with recurrent layers, whose effective attention is shown.
        inputs: as in `Model.run`.
        layer: these layers only, as in ``.at(layer=...)``.
        head: these heads only.
        view: how effective attention is shown: ``"absolute"`` (sizes, rows sum to one; the default), ``"positive"``,
            ``"share"`` (of what is read, by values too), or ``"signed"``, the weights themselves. A pattern stays as it
            is by default.
        top: how many keys to list for each query.
        spans: named parts of the prompts, as in `TokenMap.labels`: ``{"subject": "France"}``; the weights on each are
            added up.
        spec: interventions that are in force.
        attention_mask: as in `Model.run`.
        position_ids: as in `Model.run`.

    Raises:
        UnsupportedAnalysis: the model has no attention patterns, or the view needs values that it does not offer.
        SelectorError: a layer, head or view that is not there; ``top`` below 1.
        SpanError: a row does not have a span.
    """
    check_readers(model, "attention_patterns")
    if top < 1:
        raise SelectorError(f"top={top!r}: list at least one key for each query.", top=top)
    heads = [head] if isinstance(head, int) else None if head is None else list(head)
    read = read_patterns(
        model,
        inputs,
        view=view,
        layer=layer,
        head=heads,
        spec=spec,
        attention_mask=attention_mask,
        position_ids=position_ids,
    )
    run = read.run
    pattern = left_aligned(read.weights.cpu(), run.mask.cpu())
    sizes = left_aligned(read.sizes.cpu(), run.mask.cpu())
    axes: dict[str, Sequence[Label]] = {"layer": read.layers, "head": read.heads}
    axes["batch"] = tuple(range(pattern.shape[2]))
    positions = shared_positions(run.text_tokens)
    weights, places = largest(sizes, min(top, pattern.shape[-1]))

    def labelled(
        name: str, values: Tensor, unit: str = "", more: Mapping[str, Sequence[Label]] | None = None
    ) -> Labelled:
        coords = {**axes, **(more or {})}
        return Labelled(values, tuple(coords), coords, name, unit)

    listed: dict[str, Sequence[Label]] = {"query_pos": positions, "top": tuple(range(1, weights.shape[-1] + 1))}
    return AttentionPatterns(
        provenance=ResultProvenance.of(model, run, read.spec, inputs),
        view=read.view,
        of_attention=read.of_attention,
        pattern=labelled(
            "attention",
            pattern,
            "probability" if read.sizes is read.weights else "",
            {"query_pos": positions, "key_pos": positions},
        ),
        entropy=labelled("entropy", over_queries(entropy(sizes)), "nats"),
        distance=labelled("distance", over_queries(distance(sizes)), "tokens"),
        to_first=labelled("attention to the first token", over_queries(sizes[..., 0]), "probability"),
        to_self=labelled("attention to itself", over_queries(sizes.diagonal(dim1=-2, dim2=-1)), "probability"),
        to_previous=labelled("attention to the token before", over_queries(previous(sizes)), "probability"),
        top_weight=labelled("largest weights", weights, "probability", listed),
        top_position=labelled("positions of the largest weights", places, more=listed),
        to_spans=None if spans is None else routed(labelled, sizes, run, spans, positions),
    )


Pattern = Float[Tensor, "layer head batch query_pos key_pos"]
PerQuery = Float[Tensor, "layer head batch query_pos"]


def left_aligned(stacked: Float[Tensor, "layer batch head column column"], mask: Tensor) -> Pattern:
    """The real rows and columns of each pattern, in order; NaN behind a row's own."""
    layers, rows, heads = stacked.shape[:3]
    width = int(mask.sum(1).max())
    made = stacked.new_full((layers, heads, rows, width, width), torch.nan)
    for row in range(rows):
        real = mask[row].nonzero()[:, 0]
        made[:, :, row, : len(real), : len(real)] = stacked[:, row][..., real, :][..., real]
    return made


def shared_positions(texts: Sequence[Sequence[str]]) -> tuple[Label, ...]:
    """Positions, with their token where all rows have the same."""
    width = max(map(len, texts))
    tokens = [{row[place] for row in texts if place < len(row)} for place in range(width)]
    return tuple((place, next(iter(seen))) if len(seen) == 1 else place for place, seen in enumerate(tokens))


def routed(
    labelled: Callable[..., Labelled],
    sizes: Pattern,
    run: mi.Run,
    spans: Mapping[str, Any],
    positions: Sequence[Label],
) -> Labelled:
    """The weights on the tokens of each span, added up; NaN behind a row's own queries."""
    rows = [mi.TokenMap.of(run, row).labels(spans) for row in range(sizes.shape[2])]
    there = {name for row in rows for name in row}
    names = [name for span in spans for name in (span, f"{span}_final") if name in there]
    names += ["other"] if "other" in there else []
    member = torch.zeros(len(rows), sizes.shape[-1], len(names), dtype=sizes.dtype)
    for row, labels in enumerate(rows):
        for place, name in enumerate(labels):
            member[row, place, names.index(name)] = 1.0
    values = torch.einsum("lhbqk,bks->lhbqs", sizes.nan_to_num(), member)
    values = values.masked_fill(sizes[..., :1].isnan(), torch.nan)
    more = {"query_pos": positions, "span": tuple(names)}
    return labelled("attention to spans", values, "probability", more)


def over_queries(values: PerQuery) -> Float[Tensor, "layer head batch"]:
    """The mean over the queries from the second on, where there are any."""
    return values[..., 1:].nanmean(-1)


def entropy(pattern: Pattern) -> PerQuery:
    """Of each query's weights, in nats."""
    nats: Tensor = torch.special.entr(pattern).nansum(-1)
    return nats.masked_fill(pattern[..., 0].isnan(), torch.nan)


def distance(pattern: Pattern) -> PerQuery:
    """How far back each query looks, weighted."""
    places = torch.arange(pattern.shape[-1], dtype=pattern.dtype)
    weighted = (pattern * (places[:, None] - places)).nansum(-1)
    return weighted.masked_fill(pattern[..., 0].isnan(), torch.nan)


def previous(pattern: Pattern) -> PerQuery:
    """The weight on the token before; nothing is before the first."""
    before = pattern.diagonal(offset=-1, dim1=-2, dim2=-1)
    return torch.cat([torch.zeros_like(pattern[..., :1, 0]), before], dim=-1)


def largest(pattern: Pattern, top: int) -> tuple[Tensor, Tensor]:
    """The largest weights of each query and their positions; NaN and -1 where there is no such position."""
    found = pattern.nan_to_num(nan=-1.0).topk(top, dim=-1)
    absent = found.values < 0
    return found.values.masked_fill(absent, torch.nan), found.indices.masked_fill(absent, -1)


@hookimpl
def mi_analysis() -> Analysis:
    """What the core needs to know about attention patterns."""
    return Analysis("Where does each head look?", NEEDS, attention_patterns)


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi attention``."""
    from mi_analyses.attention_patterns_command import attention

    return attention
