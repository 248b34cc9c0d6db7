"""What checks draw: prompts in every layout, points, selectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from hypothesis import strategies as st
from jaxtyping import Bool, Shaped
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mi_core.layout import POSITION_DIMS
from mi_core.names import Point
from mi_core.protocols import ModelShape
from mi_core.testing.subject import Subject

__all__ = ["LAYOUTS", "Prompt", "drawn_inputs", "points", "prompts", "seeds", "selectors", "several"]

LAYOUTS: Final = ("plain", "right", "left", "holes")
"""No mask; pads behind, before, and anywhere among the tokens."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """Rows of random ids (or numbers) in some layout; at the pads lie ids too, which nobody may look at."""

    ids: Shaped[Tensor, "batch column *numbers"]
    mask: Bool[Tensor, "batch column"] | None = None

    @classmethod
    def of(
        cls, lengths: Sequence[int], shape: ModelShape, *, layout: str = "plain", seed: int = 0, extra: int = 0
    ) -> Prompt:
        """Rows of these lengths. ``extra`` columns more than the longest needs."""
        draw = torch.Generator().manual_seed(seed)
        columns = max(lengths) + (0 if layout == "plain" else extra)
        ids = drawn_inputs(shape, (len(lengths), columns), draw)
        if layout == "plain":
            return cls(ids)
        mask = torch.zeros(len(lengths), columns, dtype=torch.bool)
        for row, length in enumerate(lengths):
            free = torch.randperm(columns, generator=draw)[:length]
            mask[row, {"right": slice(None, length), "left": slice(columns - length, None)}.get(layout, free)] = True
        return cls(ids, mask)

    @classmethod
    def packed(cls, rows: Sequence[list[int]]) -> Prompt:
        """Rows of given ids, padded on the right."""
        columns = max(map(len, rows))
        mask = torch.arange(columns) < torch.tensor([len(row) for row in rows])[:, None]
        return cls(pad_sequence([torch.tensor(row) for row in rows], batch_first=True), mask)

    def __repr__(self) -> str:
        mask = "" if self.mask is None else f", attention_mask={self.mask.int().tolist()}"
        return f"{self.ids.tolist()}{mask}"

    @property
    def real(self) -> Bool[Tensor, "batch column"]:
        """Which columns are tokens."""
        return torch.ones(self.ids.shape[:2], dtype=torch.bool) if self.mask is None else self.mask

    @property
    def columns(self) -> list[list[int]]:
        """The columns of each row's tokens, in order."""
        return [row.nonzero()[:, 0].tolist() for row in self.real]

    @property
    def rows(self) -> list[list[int]]:
        """Each row's tokens."""
        return [ids[real].tolist() for ids, real in zip(self.ids, self.real, strict=True)]

    @property
    def shortest(self) -> int:
        """The number of tokens of the shortest row."""
        return min(map(len, self.columns))

    def call(self, spec: object = None, **options: object) -> str:
        """The call that runs it, as it would be written."""
        shown = "" if spec is None else f", {spec!r}"
        return f"model.run({self!r}{shown}{''.join(f', {name}={value!r}' for name, value in options.items())})"

    def row(self, row: int) -> Prompt:
        """One row alone, without its pads."""
        return Prompt(torch.tensor([self.rows[row]]))

    def take(self, value: Tensor, dims: Sequence[str], row: int) -> Tensor:
        """A row's part of an activation in this layout, its tokens only: what the row alone would give."""
        for axis, dim in enumerate(dims):
            if dim in POSITION_DIMS:
                value = value.index_select(axis, torch.tensor(self.columns[row], device=value.device))
        return value[row : row + 1] if dims[0] == "batch" else value


def drawn_inputs(
    shape: ModelShape, size: tuple[int, ...], draw: torch.Generator
) -> Shaped[Tensor, "batch column *numbers"]:
    """Random token ids, or random numbers for a model that reads numbers."""
    if shape.numbers is None:
        return torch.randint(shape.d_vocab, size[:2], generator=draw)
    return torch.randn((*size[:2], shape.numbers), generator=draw)


def seeds() -> st.SearchStrategy[int]:
    """Seeds for values: values are not made smaller, prompts are."""
    return st.integers(0, 9999)


@st.composite
def prompts(
    draw: st.DrawFn,
    subject: Subject,
    *,
    rows: tuple[int, int] = (1, 3),
    least: int = 1,
    longest: int | None = None,
    layouts: Sequence[str] = LAYOUTS,
) -> Prompt:
    """Rows of at least ``least`` tokens (at most ``longest``, or as many as are drawn) in one of the layouts."""
    layout = draw(st.sampled_from(list(layouts)))
    number = draw(st.integers(*rows))
    most = subject.longest if longest is None else max(longest, 1)
    length = st.integers(min(least, most), most)
    lengths = [draw(length)] * number if layout == "plain" else [draw(length) for _ in range(number)]
    extra = 0 if layout == "plain" else draw(st.integers(0, 2))
    return Prompt.of(lengths, subject.model.shape, layout=layout, seed=draw(seeds()), extra=extra)


def points(of: Sequence[Point]) -> st.SearchStrategy[Point]:
    """One of some points."""
    return st.sampled_from(list(of))


def several(of: Sequence[Point], most: int = 4) -> st.SearchStrategy[list[Point]]:
    """A few of some points."""
    return st.lists(points(of), min_size=1, max_size=min(most, len(of)), unique_by=lambda point: point.name)


@st.composite
def selectors(draw: st.DrawFn, point: Point, prompt: Prompt) -> dict[str, Any]:
    """Selectors over some dims of a point that exist in every row of a prompt."""
    chosen: dict[str, Any] = {}
    for dim in point.site.dims:
        if draw(st.booleans()):
            size = {"batch": len(prompt.ids)}.get(dim, point.site.sizes.get(dim, prompt.shortest))
            chosen[dim] = draw(selector(size))
    return chosen


def selector(size: int) -> st.SearchStrategy[Any]:
    """An int, a slice, a list or (over few entries) a mask that selects something among ``size`` entries."""
    index = st.integers(-size, size - 1)
    whole = st.lists(st.integers(0, size - 1), min_size=1, max_size=min(size, 3), unique=True)
    part = st.builds(lambda start, step: slice(start, None, step), st.integers(0, size - 1), st.integers(1, 2))
    return st.one_of(index, part, whole)
