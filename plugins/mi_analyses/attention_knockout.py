"""Attention knockout: which attention edges does an answer hang on?

Reach for it to see where information moves between positions: an edge that is cut carries nothing, so what changes
came over it. An answer that survives every single cut may still come over several edges at once: cut windows of layers.

Source: Geva et al. 2023, "Dissecting Recall of Factual Associations in Auto-Regressive Language Models"
(arXiv:2304.14767).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import mi_core as mi
from mi_analyses.pattern_views import EFFECTIVE, check_readers, sites_of
from mi_core.analyses import Analysis
from mi_core.hookspecs import hookimpl
from mi_core.labelled import Labelled
from mi_core.results import Result, ResultProvenance

__all__ = ["AttentionKnockout", "attention_knockout"]

SCORES = "attn.hook_attn_scores"
NEEDS = (SCORES,)
"""Or effective attention, which recurrent layers have instead."""


@dataclass(frozen=True, kw_only=True, eq=True)
class AttentionKnockout(Result):
    """What each cut does to the next token. Axes: those of ``each``, then ``batch``."""

    kl: Labelled
    """From the whole model's next-token distribution to that behind the cut, nats."""
    probability: Labelled
    """The change of the answer's probability: negative where the cut takes it away."""
    rank: Labelled
    """The change of the number of tokens above the answer: positive where it falls behind."""
    whole_probability: Labelled
    """Of the answer, with nothing cut: batch."""
    whole_rank: Labelled
    """How many tokens are above the answer, with nothing cut: batch."""
    answer: tuple[str, ...]
    """The text of the answer, row by row."""
    cut: str
    """What every cut has in common, in words."""
    window: int
    """Layers cut together; a block is labelled by its first."""

    title: ClassVar[str] = "Attention knockout"
    template: ClassVar[str] = "mi_analyses/heat_maps.html"
    views: ClassVar[str] = "mi_analyses.attention_knockout_view"


def attention_knockout(
    model: mi.Model,
    inputs: Any,
    answer: str | int | Sequence[str | int] | None = None,
    *,
    query: Any = -1,
    key: Any = None,
    heads: Any = None,
    each: Sequence[str] | Mapping[str, Any] | None = None,
    window: int = 1,
    attention_mask: Any = None,
    batch: int | str = "auto",
    progress: bool | None = None,
) -> AttentionKnockout:
    """Which attention edges does the answer hang on?

    Each cell is one run in which the ``query`` positions may not see some ``key`` positions, computed from where it
    first differs. Only the attention weights of the cut edges vanish: the others of the row share what they had. In a
    recurrent layer the others stay what they were: nothing there sums to one.

    Args:
        model: any model with attention scores, or with recurrent layers, whose effective attention is cut.
        inputs: as in `Model.run`.
        answer: a token, by its text or id, or one for each row; None: what the whole model says next.
        query: the positions that look, as in `mi.Knockout`; None: all.
        key: the positions that they may not see; None: one after the other, or all where ``each`` does not name them.
        heads: in these heads only.
        each: the axes, by name or with their values: ``layer``, ``head``, ``key_pos``, ``query_pos``; by default
            layers, and keys where ``key`` does not name them.
        window: how many layers are cut together.
        attention_mask: as in `Model.run`.
        batch: as in `Model.sweep`.
        progress: as in `Model.sweep`.

    Raises:
        UnsupportedAnalysis: the model has no attention scores.
        SelectorError: a position, head or axis that is not there.
        NotSingleToken: an answer is several tokens.
    """
    check_readers(model, "attention_knockout", SCORES)
    axes = each if each is not None else ("layer", "key_pos") if key is None else ("layer",)
    selectors = {"query_pos": query, "key_pos": key, "head": heads}
    common = {dim: selector for dim, selector in selectors.items() if selector is not None and dim not in axes}
    points = [f"blocks.*.{name}" for name in sites_of(model, SCORES, EFFECTIVE)]
    grid = mi.ablation_grid(points, intervention=mi.Knockout().at(**common), each=axes, window=window)
    mask = {"attention_mask": attention_mask}
    whole = model.run(inputs, logits="last", **mask)
    wanted = whole.last_logits.argmax(-1).tolist() if answer is None else answer

    def swept(metric: mi.Metric) -> mi.Sweep:
        return model.sweep(inputs, grid, metric, batch=batch, progress=progress, **mask)  # type: ignore[arg-type]

    kl, probability, rank = (swept(metric) for metric in (mi.kl(whole), mi.prob(wanted), mi.rank(wanted)))
    return AttentionKnockout(
        provenance=ResultProvenance.of(model, whole, mi.HookSpec(), inputs),
        kl=Labelled(kl.values, kl.dims, kl.coords, "KL", "nats"),
        probability=changed(probability, "change of probability"),
        rank=changed(rank, "change of rank"),
        whole_probability=before(probability),
        whole_rank=before(rank),
        answer=spelled_out(whole, wanted),
        cut=in_words(common),
        window=window,
    )


def changed(swept: mi.Sweep, name: str) -> Labelled:
    """What the cuts do to a metric: behind them minus before them."""
    return Labelled(swept.values - before(swept).values, swept.dims, swept.coords, name)


def before(swept: mi.Sweep) -> Labelled:
    """The metric with nothing cut."""
    assert swept.baseline is not None
    return swept.baseline


def spelled_out(run: mi.Run, answer: str | int | Sequence[str | int]) -> tuple[str, ...]:
    """The text of each row's answer."""
    rows = len(run.tokens)
    each = [answer] * rows if isinstance(answer, str | int) else list(answer)
    each = each * rows if len(each) == 1 else each
    return tuple(run.text_of(token) if isinstance(token, int) else token for token in each)


def in_words(common: Mapping[str, Any]) -> str:
    """What every cut has in common.

    >>> in_words({"query_pos": -1, "key_pos": mi.Span("France")})
    "query -1, key Span('France')"
    """
    return ", ".join(f"{dim.removesuffix('_pos')} {selector!r}" for dim, selector in common.items()) or "every edge"


@hookimpl
def mi_analysis() -> Analysis:
    """What the core needs to know about attention knockout."""
    return Analysis("Which attention edges does an answer hang on?", NEEDS, attention_knockout)


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi knockout``."""
    from mi_analyses.attention_knockout_command import knockout

    return knockout
