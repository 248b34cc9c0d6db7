"""What features are about: where they are most active, how often, what they promote, and which are their neighbours."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

import mi_core as mi
from mi_core.dictionaries import Dictionary
from mi_core.errors import SelectorError, UnsupportedAnalysis
from mi_core.labelled import Labelled
from mi_core.results import Result, ResultProvenance
from mi_core.tokenizer import Tokenizer
from mi_dictionaries.feature_effects import logit_effects, neighbours
from mi_dictionaries.feature_tops import FeatureTops
from mi_dictionaries.temporal import Temporal

__all__ = ["FeatureReport", "feature_report"]

ROWS = 4096
"""Rows that are encoded at a time."""
MOST = 100
"""Features that are reported where none are named."""


@dataclass(frozen=True, kw_only=True, eq=True)
class FeatureReport(Result):
    """Some features of a dictionary, over a set of activations."""

    density: Labelled
    """The share of rows at which each feature is active: feature."""
    largest: Labelled
    """Its largest activation, by absolute value: feature."""
    mean: Labelled
    """Its mean activation where it is active: feature."""
    histogram: Labelled
    """How often its activation has which size; a bin is half a power of two: feature bin."""
    examples: tuple[tuple[Any, ...], ...]
    """Of each feature its top examples, the highest first: texts of the tokens, their activations (None where the row
    was not kept), which token it is, and the document."""
    promoted: tuple[tuple[Any, ...], ...]
    """Of each feature the tokens whose logits it raises most, with how much; empty where that is not linear."""
    suppressed: tuple[tuple[Any, ...], ...]
    """Those that it lowers most."""
    neighbours: tuple[tuple[Any, ...], ...]
    """The features that write most nearly the same, with their cosines."""
    point: str
    d_sae: int
    rows: int
    dead: int
    """Features of the whole dictionary that were active nowhere."""

    title: ClassVar[str] = "Features"
    template: ClassVar[str] = "mi_dictionaries/features.html"
    views: ClassVar[str] = "mi_dictionaries.feature_view"

    @property
    def features(self) -> tuple[int, ...]:
        """The numbers of the features that are reported."""
        return tuple(int(str(number)) for number in self.density.coords["feature"])

    def page(self, feature: int) -> str:
        """One self-contained page about one feature."""
        from mi_dictionaries.feature_view import feature_page

        return feature_page(self, feature)


def feature_report(
    model: mi.Model,
    dictionary: Dictionary,
    data: mi.Harvest | Sequence[str] | str,
    *,
    features: Sequence[int] | None = None,
    examples: int = 10,
    before: int = 15,
    after: int = 5,
    k: int = 10,
    progress: Callable[[int, int], object] | None = None,
) -> FeatureReport:
    """What are features about?

    Args:
        model: the one that the dictionary is of.
        dictionary: one that reads one point.
        data: a harvest with that point, or texts, which are harvested first (to a folder that goes away).
        features: their numbers; None for the hundred of the largest summed activation.
        examples: how many of each.
        before: tokens that are shown before each example's own.
        after: tokens that are shown behind it.
        k: how many tokens and neighbours.
        progress: called with the rows that are encoded so far, and all.

    Raises:
        UnsupportedAnalysis: the dictionary reads several points, or across positions.
        SelectorError: the harvest lacks the point, or the dictionary lacks a feature.
    """
    if len(dictionary.reads) != 1 or isinstance(dictionary, Temporal):
        what = "across positions" if isinstance(dictionary, Temporal) else f"{len(dictionary.reads)} points"
        raise UnsupportedAnalysis(f"the dictionary reads {what}: rows of one point do not tell its features.")
    data = [data] if isinstance(data, str) else data
    if not isinstance(data, mi.Harvest):
        with tempfile.TemporaryDirectory() as folder:
            harvest = mi.harvest(model, list(data), dictionary.site_in, folder, progress=False)
            options: dict[str, Any] = {"examples": examples, "before": before, "after": after, "k": k}
            return feature_report(model, dictionary, harvest, features=features, progress=progress, **options)
    point = dictionary.site_in
    if point not in data:
        raise SelectorError(f"the harvest has {', '.join(data)}, and the dictionary reads {point!r}.", point=point)
    tops = FeatureTops.empty(dictionary.d_sae, examples)
    for first, rows in chunks(data, point):
        token, index, values = active(dictionary, rows)
        tops.add(token, index, values, first)
        if progress is not None:
            progress(first + len(rows), data.rows)
    chosen = chosen_features(tops, features, dictionary.d_sae)
    shown = Shown(dictionary, data, before, after, model.tokenizer)
    promoted, suppressed = effects_of(model, dictionary, chosen, k)
    near, cosines = neighbours(dictionary, chosen, k)
    coords = {"feature": chosen.tolist()}
    count = tops.active[chosen]

    def labelled(values: Tensor, name: str) -> Labelled:
        return Labelled(values, ("feature",), coords=coords, name=name)

    return FeatureReport(
        provenance=ResultProvenance.of_weights(model),
        density=labelled(count / data.rows, "density"),
        largest=labelled(tops.values[chosen, 0].abs(), "largest activation"),
        mean=labelled(tops.total[chosen] / count.clamp_min(1), "mean activation"),
        histogram=Labelled(tops.histogram[chosen], ("feature", "bin"), coords=coords, name="histogram"),
        examples=tuple(shown.of(int(each), tops.rows[each]) for each in chosen),
        promoted=promoted,
        suppressed=suppressed,
        neighbours=tuple(
            tuple(zip(numbers, values, strict=True))
            for numbers, values in zip(near.tolist(), cosines.tolist(), strict=True)
        ),
        point=point,
        d_sae=dictionary.d_sae,
        rows=data.rows,
        dead=int((tops.active == 0).sum()),
    )


def chunks(harvest: mi.Harvest, point: str) -> Iterator[tuple[int, Tensor]]:
    """The rows of a point, some at a time, each part with the number of its first row."""
    first = 0
    for shard in harvest[point].shards():
        for part in torch.split(shard, ROWS):
            yield first, part
            first += len(part)


def active(dictionary: Dictionary, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row, feature and value of everything that is active."""
    features: Any = dictionary.encode(rows.to(torch.float32), sparse=True)
    found: tuple[Tensor, Tensor, Tensor] = features.rows()
    return found


def chosen_features(tops: FeatureTops, features: Sequence[int] | None, d_sae: int) -> Int[Tensor, "n"]:
    """The features that are reported."""
    if features is None:
        most = min(MOST, int((tops.active > 0).sum()))
        return tops.total.abs().topk(most).indices.sort().values
    if not features:
        raise SelectorError("features=[] names none; None takes the most active ones.", features=features)
    wrong = [number for number in features if not 0 <= number < d_sae]
    if wrong:
        raise SelectorError(f"features {wrong}: the dictionary has {d_sae}, from 0.", features=wrong)
    return torch.tensor(list(features))


def effects_of(
    model: mi.Model, dictionary: Dictionary, features: Int[Tensor, "n"], k: int
) -> tuple[tuple[tuple[Any, ...], ...], tuple[tuple[Any, ...], ...]]:
    """The tokens that each feature promotes and suppresses; nothing where it does not write to the stream."""
    try:
        effects = logit_effects(model, dictionary, features)
    except UnsupportedAnalysis:
        nothing: tuple[tuple[Any, ...], ...] = ((),) * len(features)
        return nothing, nothing
    reader = model.tokenizer

    def named(values: Tensor, ids: Tensor) -> tuple[tuple[Any, ...], ...]:
        return tuple(
            tuple((reader.text(token) if reader else f"<{token}>", value) for token, value in zip(*row, strict=True))
            for row in zip(ids.tolist(), values.tolist(), strict=True)
        )

    count = min(k, effects.shape[1])
    return named(*effects.topk(count)), named(*effects.topk(count, largest=False))


@dataclass(eq=False)
class Shown:
    """Windows of tokens around rows, with what a feature is at each."""

    dictionary: Dictionary
    harvest: mi.Harvest
    before: int
    after: int
    reader: Tokenizer | None

    def __post_init__(self) -> None:
        self.documents, self.places = self.harvest.documents, self.harvest.places

    def of(self, feature: int, rows: Int[Tensor, "example"]) -> tuple[Any, ...]:
        """The examples of one feature."""
        contexts = [self.harvest.context(row, self.before, self.after) for row in rows.tolist() if row >= 0]
        around = [self.around(row, context) for row, context in zip(rows.tolist(), contexts, strict=False)]
        wanted = sorted({row for group in around for row in group if row is not None})
        if not wanted:
            return ()
        token, index, values = active(self.dictionary, self.harvest[self.dictionary.site_in][torch.tensor(wanted)])
        own = index == feature
        found = {wanted[at]: value for at, value in zip(token[own].tolist(), values[own].tolist(), strict=True)}
        return tuple(
            (
                tuple(self.reader.text(token) for token in context.ids) if self.reader else context.tokens,
                tuple(None if row is None else found.get(row, 0.0) for row in group),
                context.at,
                context.document,
            )
            for context, group in zip(contexts, around, strict=True)
        )

    def around(self, row: int, context: Any) -> list[int | None]:
        """The row of each token of a window; None for one that was not kept."""
        found: list[int | None] = []
        for offset in range(-context.at, len(context.tokens) - context.at):
            other = row + offset
            inside = 0 <= other < len(self.documents)
            same = inside and bool(
                (self.documents[other] == self.documents[row]) & (self.places[other] - self.places[row] == offset)
            )
            found.append(other if same else None)
        return found
