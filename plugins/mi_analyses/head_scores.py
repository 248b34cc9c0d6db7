"""Head scores: which heads look at the previous token, at the same token before, or at what came after it?

Reach for it to find induction heads and their helpers in a model that you do not know. The sequences are random, so
nothing but position and repetition can be used.

Source: Olsson et al. 2022, "In-context Learning and Induction Heads" (arXiv:2209.11895), prefix matching; previous and
duplicate token heads as in Wang et al. 2022, "Interpretability in the Wild" (arXiv:2211.00593).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

import mi_core as mi
from mi_analyses.pattern_views import check_readers, read_patterns
from mi_core.analyses import Analysis
from mi_core.errors import ContextOverflow, SelectorError
from mi_core.hookspecs import hookimpl
from mi_core.labelled import Label, Labelled
from mi_core.results import Result, ResultProvenance

__all__ = ["HeadScores", "head_scores"]

NEEDS = ("attn.hook_pattern",)
"""Or effective attention, which recurrent layers have instead."""
KINDS = ("previous token", "duplicate token", "induction")
ROWS = 4
"""Sequences whose patterns exist at once."""


@dataclass(frozen=True, kw_only=True, eq=True)
class HeadScores(Result):
    """How much attention each head pays to what its kind looks at, from 0 to 1."""

    scores: Labelled
    """The mean weight: kind layer head."""
    view: str = "signed"
    """How effective attention is counted, see `attention_patterns`."""
    length: int
    """Tokens of a sequence, which comes twice."""
    sequences: int
    seed: int

    title: ClassVar[str] = "Head scores"
    template: ClassVar[str] = "mi_analyses/heat_maps.html"
    views: ClassVar[str] = "mi_analyses.head_scores_view"


def head_scores(
    model: mi.Model,
    *,
    length: int = 24,
    sequences: int = 16,
    seed: int = 0,
    view: str | None = None,
    spec: mi.HookSpec | None = None,
) -> HeadScores:
    """Which heads look at the previous token, at the same token before, or at what came after it?

    Each row is BOS, where the tokenizer has one, and a random sequence of ``length`` different tokens, twice. From the
    second occurrence of a token: ``duplicate token`` is the weight on its first, ``induction`` that on the token behind
    its first, ``previous token`` that on the token before. ``view``: of recurrent layers' effective attention, as in
    `attention_patterns`. ``spec``: interventions that are in force.

    Raises:
        UnsupportedAnalysis: the model has no attention patterns, or the view needs values that it does not offer.
        SelectorError: no such view; fewer than two tokens, no sequence, or more tokens than the vocabulary has.
        ContextOverflow: two sequences are longer than the model's context.
    """
    check_readers(model, "head_scores")
    ids = repeated(model, length, sequences, seed)
    total, read = None, None
    for rows in ids.split(ROWS):  # type: ignore[no-untyped-call]
        read = read_patterns(model, rows, view=view, spec=spec)
        part = scored(read.weights.cpu(), length)
        total = part if total is None else total + part
    assert read is not None
    assert total is not None
    coords: dict[str, Sequence[Label]] = {"kind": KINDS, "layer": read.layers, "head": read.heads}
    return HeadScores(
        provenance=ResultProvenance.of(model, read.run, read.spec),
        view=read.view,
        scores=Labelled(total / sequences, ("kind", "layer", "head"), coords, "attention", "probability"),
        length=length,
        sequences=sequences,
        seed=seed,
    )


def repeated(model: mi.Model, length: int, sequences: int, seed: int) -> Int[Tensor, "batch column"]:
    """Random sequences without repetition, each twice, behind BOS if there is one."""
    size, limit = model.shape.d_vocab, model.shape.n_ctx
    tokenizer = model.tokenizer
    special = set() if tokenizer is None else {tokenizer.bos, tokenizer.eos, tokenizer.pad}
    allowed = torch.tensor([token for token in range(size) if token not in special])
    if not 2 <= length <= len(allowed) or sequences < 1:
        raise SelectorError(
            f"length={length!r}, sequences={sequences!r}: a sequence has from 2 to {len(allowed)} different "
            "tokens, and there is at least one.",
            length=length,
            sequences=sequences,
        )
    first = [] if tokenizer is None or tokenizer.bos is None else [tokenizer.bos]
    if limit is not None and 2 * length + len(first) > limit:
        raise ContextOverflow(
            f"length={length!r}: twice that is more than the {limit} positions of {model.name!r}. Take at most "
            f"{(limit - len(first)) // 2}."
        )
    draw = torch.Generator().manual_seed(seed)
    rows = [allowed[torch.randperm(len(allowed), generator=draw)[:length]] for _ in range(sequences)]
    return torch.stack([torch.cat([torch.tensor(first, dtype=torch.long), row, row]) for row in rows])


def scored(
    pattern: Float[Tensor, "layer batch head query_pos key_pos"], length: int
) -> Float[Tensor, "kind layer head"]:
    """The sum over rows of the mean weight from the second occurrence to what each kind looks at."""
    end = pattern.shape[-1]
    query = torch.arange(end - length, end)
    keys = (query - 1, query - length, query - length + 1)
    return torch.stack([pattern[..., query, key].mean(-1).sum(1) for key in keys])


@hookimpl
def mi_analysis() -> Analysis:
    """What the core needs to know about head scores."""
    return Analysis("Which heads look at previous, duplicate or induced tokens?", NEEDS, head_scores)


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi heads``."""
    from mi_analyses.head_scores_command import heads

    return heads
