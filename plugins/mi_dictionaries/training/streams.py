"""Where activations come from: a model that runs, or tensors that are there. Always by number, never by state.

A source gives the same chunk for the same number whenever it is asked, so that a training goes on where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

import mi_core as mi
from mi_core.errors import InputError, NoTokenizer
from mi_core.harvests.corpora import Corpus, corpus_of

__all__ = ["Chunks", "LiveActivations", "StoredActivations"]

Rows = Callable[[int], Any]
"""The inputs of one model run by number: ids [row column], or texts."""


@runtime_checkable
class Chunks(Protocol):
    """Activations at some points, token by token, in numbered chunks."""

    @property
    def points(self) -> tuple[str, ...]:
        """The points, in the order of the columns."""
        ...

    @property
    def widths(self) -> tuple[int, ...]:
        """The width of each."""
        ...

    def chunk(self, number: int, tokens: int) -> Float[Tensor, "token width"]:
        """``tokens`` tokens, all points side by side: those that come behind ``number`` such chunks."""
        ...

    def describe(self) -> dict[str, Any]:
        """What they are of, as JSON: the model and the data."""
        ...


@dataclass
class LiveActivations:
    """What flows through a model while it reads a corpus.

    ``rows`` gives the inputs of the ``n``-th run: a function of ``n``, or a sequence that begins again at its end.
    Runs have the same number of tokens, ``tokens_per_run``, once ``skip`` ids (BOS, say) are left out; a run with more
    is cut, one with fewer refused.
    """

    model: mi.Model
    rows: Rows | Sequence[Any]
    points: tuple[str, ...]
    tokens_per_run: int
    skip: tuple[int, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.points = tuple(point.name for name in self.points for point in self.model.hook_points(name))
        self.spec = mi.capture(list(self.points))

    @classmethod
    def over(
        cls, model: mi.Model, data: Any, points: Sequence[str], *, columns: int = 128, rows: int = 32
    ) -> LiveActivations:
        """Of texts, files or whatever `mi_core.harvest` takes: documents one behind the other, cut into full rows.

        Raises:
            InputError: there is not one run of tokens.
        """
        corpus = corpus_of(data)
        ids = joined(model, corpus)
        runs = len(ids) // (rows * columns)
        if not runs:
            raise InputError(f"{len(ids)} tokens do not fill one run of {rows} rows of {columns}.", tokens=len(ids))
        inputs = ids[: runs * rows * columns].view(runs, rows, columns)
        about = {"data": corpus.name, "tokens": len(ids)}
        return cls(model, lambda run: inputs[run % runs], tuple(points), rows * columns, about=about)

    @property
    def widths(self) -> tuple[int, ...]:
        """The product of all dims behind batch and positions: heads lie side by side."""
        return tuple(math.prod(self.model.points.find(name).site.sizes.values()) for name in self.points)

    def chunk(self, number: int, tokens: int) -> Float[Tensor, "token width"]:
        """As many runs as are needed."""
        first, behind = divmod(number * tokens, self.tokens_per_run)
        parts, have, run = [], -behind, first
        while have < tokens:
            parts.append(self.one(run))
            have += self.tokens_per_run
            run += 1
        return torch.cat(parts)[behind : behind + tokens]

    def one(self, number: int) -> Float[Tensor, "token width"]:
        """The activations of one run."""
        inputs = self.rows(number) if callable(self.rows) else self.rows[number % len(self.rows)]
        run = self.model.run(inputs, self.spec, logits=None)
        keep = run.mask
        for token in self.skip:
            keep = keep & (run.tokens != token)
        values = torch.cat([run[name][keep].flatten(1) for name in self.points], dim=1).float()
        if len(values) < self.tokens_per_run:
            raise InputError(
                f"run {number} has {len(values)} tokens, {self.tokens_per_run} were promised: give runs of one size.",
                run=number,
            )
        return values[: self.tokens_per_run]

    def describe(self) -> dict[str, Any]:
        """The model, and what the caller says of the data."""
        return {"model": self.model.provenance.ref, "tokens_per_run": self.tokens_per_run, **self.about}


def joined(model: mi.Model, corpus: Corpus) -> Int[Tensor, "token"]:
    """The ids of all documents, each as the tokenizer encodes it."""
    found: list[int] = []
    for document in corpus:
        content = document.content
        if isinstance(content, str):
            if model.tokenizer is None:
                raise NoTokenizer("the documents are texts, and this model has no tokenizer.")
            content = tuple(model.tokenizer.encode(content).ids)
        found.extend(content)
    return torch.tensor(found)


class Column(Protocol):
    """The activations at one point: a tensor [token ...], or a point of a harvest, whose rows are read as needed."""

    @property
    def shape(self) -> Sequence[int]:
        """Tokens first."""
        ...

    def __getitem__(self, rows: Any, /) -> Tensor:
        """Some rows, by a slice or by numbers."""
        ...


@dataclass
class StoredActivations:
    """Activations that are there, in memory or in a harvest: ``StoredActivations(Harvest(folder), points)``.

    Raises:
        InputError: no tokens, or not as many at every point.
        CorruptShard: the harvest has a shard that cannot be read, which would end a training in its middle.
    """

    columns: Mapping[str, Column]
    points: tuple[str, ...] = ()
    """Which of them; none given: all."""
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.points = tuple(self.points) or tuple(self.columns)
        if isinstance(self.columns, mi.Harvest):
            for problem in self.columns.problems().values():
                raise problem
        lengths = {name: int(self.columns[name].shape[0]) for name in self.points}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise InputError(f"as many tokens at every point are needed, there are {lengths!r}.", lengths=lengths)
        self.length = lengths[self.points[0]]

    @property
    def widths(self) -> tuple[int, ...]:
        """All dims behind the tokens."""
        return tuple(math.prod(self.columns[name].shape[1:]) for name in self.points)

    def chunk(self, number: int, tokens: int) -> Float[Tensor, "token width"]:
        """From the beginning again when they end."""
        start = number * tokens % self.length
        whole = start + tokens <= self.length
        rows: Any = slice(start, start + tokens) if whole else torch.arange(start, start + tokens) % self.length
        return torch.cat([self.columns[name][rows].flatten(1).float() for name in self.points], dim=1)

    def describe(self) -> dict[str, Any]:
        """What the caller or the harvest says of them, and how many they are."""
        return {"tokens": self.length, **harvested(self.columns), **self.about}


def harvested(columns: Mapping[str, Column]) -> dict[str, Any]:
    """What a harvest is of, wherever it lies: the model, its weights, the data; nothing of tensors."""
    if not isinstance(columns, mi.Harvest):
        return {}
    index = columns.index
    known = {"model": index["provenance"]["ref"], "weights": index["settings"]["weights"], "spec": index["asked"]}
    return known | ({"documents": index["end"]["digest"]} if columns.complete else {})
