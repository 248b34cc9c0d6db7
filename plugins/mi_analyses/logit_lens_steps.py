"""The logit lens as a story: what each point says at one position, in words and numbers for any view."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from mi_core.labelled import Label, visible

__all__ = ["Column", "Row", "Step", "page_rows", "percent", "short", "steps", "summary"]


@dataclass(frozen=True)
class Step:
    """What one point says at one position."""

    point: str
    label: str
    """The point in short: ``3.mid``."""
    top: tuple[tuple[str, float], ...]
    """The likeliest tokens and their probabilities."""
    entropy: float
    kl: float
    answer: float
    """Probability of what the model says in the end."""
    rank: int
    """Its rank here, 1 for the likeliest."""
    answer_text: str
    followed: tuple[tuple[str, float, int], ...] = ()
    """The given tokens with their probability and rank."""


def steps(lens: Any, row: int, column: int) -> list[Step]:
    """Every point at one column of one row, in order."""
    answer = lens.text[int(lens.answer_id.values[row, column])]
    ids = lens.top_id.values[:, row, column].tolist()
    shares = lens.probability.values[:, row, column].tolist()
    tokens = [str(token) for token in lens.token_rank.coords["token"]]
    shares_of = lens.token_probability.values[:, row, column].tolist()
    ranks_of = lens.token_rank.values[:, row, column].tolist()
    arrays = (lens.entropy, lens.kl, lens.answer_probability, lens.answer_rank)
    numbers = zip(*(array.values[:, row, column].tolist() for array in arrays), strict=True)
    return [
        Step(
            point=str(point),
            label=short(point),
            top=tuple((lens.text[token], share) for token, share in zip(top, probabilities, strict=True)),
            entropy=entropy,
            kl=kl,
            answer=share,
            rank=rank,
            answer_text=answer,
            followed=tuple(zip(tokens, also, ranks, strict=True)),
        )
        for point, top, probabilities, (entropy, kl, share, rank), also, ranks in zip(
            lens.top_id.coords["point"], ids, shares, numbers, shares_of, ranks_of, strict=True
        )
    ]


def short(point: Label) -> str:
    """A point as a row label.

    >>> short("blocks.3.hook_resid_mid")
    '3.mid'
    """
    layer, _, site = str(point).removeprefix("blocks.").partition(".")
    return f"{layer}.{site.removeprefix('hook_').removeprefix('resid_')}"


def percent(share: float) -> str:
    """A probability in percent with one decimal; one that only rounds to 0 or 100 says so.

    >>> percent(0.1234), percent(0.0001), percent(0.99999), percent(1.0)
    ('12.3%', '<0.1%', '>99.9%', '100%')
    """
    if 0 < share < 0.0005:
        return "<0.1%"
    if 0.9995 <= share < 1:
        return ">99.9%"
    return "100%" if share == 1 else f"{100 * share:.1f}%"


def summary(lens: Any, row: int, column: int) -> str:
    """The story in one sentence: where the answer enters the top, and from where on it leads."""
    rungs = steps(lens, row, column)
    answer = visible(rungs[-1].answer_text)
    top = len(rungs[0].top)
    enters = next((rung.label for rung in rungs if rung.rank <= top), None)
    leads = next((i for i in range(len(rungs)) if all(rung.rank == 1 for rung in rungs[i:])), None)
    if enters is None:
        return f"{answer} is not among the top {top} at any of these points."
    if leads is not None and rungs[leads].label == enters:
        return f"{answer} leads from {enters} on."
    entered = f"{answer} enters the top {top} at {enters}"
    if leads is None:
        return f"{entered} and does not lead at the last of these points."
    return f"{entered} and leads from {rungs[leads].label} on."


@dataclass(frozen=True)
class Column:
    """One position of a row, for the page."""

    position: int
    token: str
    says: str
    steps: tuple[Step, ...]

    def data(self) -> dict[str, Any]:
        """What the page's script reads: a few digits are enough for the eye."""
        return {
            "at": f"{self.position} {visible(self.token)}",
            "says": self.says,
            "answer": visible(self.steps[-1].answer_text),
            "steps": [
                {
                    "label": step.label,
                    "top": [[visible(token), brief(share)] for token, share in step.top],
                    "entropy": brief(step.entropy),
                    "kl": brief(step.kl),
                    "p": brief(step.answer),
                    "rank": step.rank,
                    "followed": [[visible(token), brief(share), rank] for token, share, rank in step.followed],
                }
                for step in self.steps
            ],
        }


@dataclass(frozen=True)
class Row:
    """One prompt, for the page."""

    tokens: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def most(self) -> dict[str, float]:
        """The largest entropy and divergence, at which colours end."""
        every = [step for column in self.columns for step in column.steps]
        return {
            "entropy": max((step.entropy for step in every), default=0.0) or 1.0,
            "kl": max((step.kl for step in every), default=0.0) or 1.0,
        }

    def data(self) -> list[dict[str, Any]]:
        """What the page's script reads."""
        return [column.data() for column in self.columns]


def page_rows(lens: Any) -> list[Row]:
    """Every row with the positions that were read."""
    return [
        Row(
            tokens,
            tuple(
                Column(position, tokens[position], summary(lens, row, column), tuple(steps(lens, row, column)))
                for column, position in enumerate(lens.position.values[row].tolist())
                if position >= 0
            ),
        )
        for row, tokens in enumerate(lens.provenance.tokens)
    ]


def brief(number: float) -> float | None:
    """Four significant digits; None for what JSON has no number for."""
    return float(f"{number:.4g}") if math.isfinite(number) else None
