"""How good is a dictionary: how sparse, how exact, and how much of the model's behaviour it keeps?

Activations are compared where the dictionary writes, so that a transcoder is judged by the output that it replaces, and
the model is run with the reconstruction in that place. Of a set, 1, 2, ... of its layers are replaced at once, each
reading what the layers before it made of the stream.

Source: the formulas of SAELens 6.54, evals.py, in float64 and streamed over batches; its own evaluation replaces what
a transcoder reads, and drops a skip connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

import mi_core as mi
from mi_core.dictionaries import Dictionary
from mi_core.errors import EmptyInput
from mi_core.labelled import Labelled
from mi_core.protocols import Site, Tap
from mi_core.results import Result, ResultProvenance
from mi_dictionaries.belonging import check_model
from mi_dictionaries.measures import Behaviour, Reconstruction, Sparsity
from mi_dictionaries.sets import DictionarySet

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True, kw_only=True)
class Evaluation(Result):
    """Measures of a dictionary, or of each dictionary of a set.

    ``behaviour`` has one row for each number of layers that were replaced; a single dictionary has one.
    """

    sparsity: Labelled
    """What each point that is read is encoded to: read measure (``l0``, ``l1``, ``dead``, ``dense``)."""
    reconstruction: Labelled
    """How exact each point that is written is: write measure."""
    behaviour: Labelled
    """Cross-entropy and divergence in nats, and the shares of both that are recovered: replaced measure."""
    density: Labelled
    """The share of tokens at which each feature is not zero: read feature."""
    tokens: int

    def __getattr__(self, name: str) -> float:
        """A measure by its name: of everything replaced; L0, L1 and counts summed over what is read, others averaged.

        Raises:
            AttributeError: there is no such measure.
        """
        held = self.__dict__
        for table in (held.get("behaviour"), held.get("sparsity"), held.get("reconstruction")):
            if table is not None and name in table.coords["measure"]:
                column = table.sel(measure=name).values
                if table is held["behaviour"]:
                    return float(column[-1])
                return float(column.sum() if table is held["sparsity"] else column.mean())
        raise AttributeError(f"{type(self).__name__} has no {name!r}")


def evaluate(
    model: mi.Model,
    dictionary: Dictionary | DictionarySet,
    inputs: Iterable[Any],
    *,
    skip: Sequence[int] = (),
) -> Evaluation:
    """What does a dictionary keep of what the model does on these inputs?

    Args:
        model: The model that it belongs to.
        dictionary: One, or a set; a cross-layer transcoder is a set.
        inputs: Batches, each what `Model.run` takes: texts, or ids [row column].
        skip: Ids of tokens that are left as they are and not counted: BOS, say.

    Returns:
        ``ce_recovered`` is 1 where the spliced model predicts as well as the model, 0 where it does as badly as with
        zeros in that place; ``kl_recovered`` the same for the divergence from the model's own distribution.

    Raises:
        EmptyInput: there are no tokens.
        ValueMismatch: the dictionary is of another model, or of another width; the message has both.
    """
    parts = dictionary if isinstance(dictionary, DictionarySet) else DictionarySet((dictionary,))
    for each in parts.dictionaries:
        tuple(check_model(each, model.provenance))
    gauges = Gauges.of(parts)
    for batch in inputs:
        gauges.add(model, batch, tuple(skip))
    return gauges.result(model)


@dataclass
class Gauges:
    """Everything that is summed up over batches."""

    parts: DictionarySet
    sparsity: dict[str, Sparsity]
    reconstruction: dict[str, Reconstruction]
    behaviour: list[Behaviour]
    tokens: int = 0

    @classmethod
    def of(cls, parts: DictionarySet) -> Gauges:
        """One gauge for each read, each write, and each number of replaced layers."""
        return cls(
            parts,
            {each.site_in: Sparsity(each.d_sae) for each in parts.dictionaries},
            {point: Reconstruction() for point in parts.writes},
            [Behaviour() for _ in parts.writes],
        )

    def add(self, model: mi.Model, batch: Any, skip: tuple[int, ...]) -> None:
        """One batch: a clean run, and two for each number of replaced layers."""
        spec = mi.capture(list(dict.fromkeys((*self.parts.reads, *self.parts.writes))))
        clean = model.run(batch, spec)
        keep = kept(clean, skip)
        if not bool(keep.any()):
            return
        self.tokens += int(keep.sum())
        self.measure(clean, keep)
        for replaced, gauge in enumerate(self.behaviour, start=1):
            points = self.parts.writes[:replaced]
            spliced = model.run(batch, splices(self.parts, points, keep))
            zeros = [mi.insert(Zeros(point, keep), f"zeros {point}") for point in points]
            ablated = model.run(batch, sum(zeros, mi.HookSpec()))
            gauge.add(clean, spliced, ablated, keep)

    def measure(self, clean: mi.Run, keep: Bool[Tensor, "batch column"]) -> None:
        """Features and reconstructions of the clean run's activations, at the tokens that count."""
        made: dict[str, Tensor] = {}
        for each in self.parts.dictionaries:
            x = read(each, clean)[keep]
            features = each.encode(x, sparse=True)
            self.sparsity[each.site_in].add(features, len(x))
            for point, value in written(each, x, features).items():
                made[point] = made[point] + value if point in made else value
        for point, value in made.items():
            self.reconstruction[point].add(clean[point][keep].reshape(len(value), -1), value.reshape(len(value), -1))

    def result(self, model: mi.Model) -> Evaluation:
        """The measures.

        Raises:
            EmptyInput: no token was seen.
        """
        if not self.tokens:
            raise EmptyInput("no tokens to evaluate on: give at least one batch with a token that is not skipped.")
        densities = [gauge.density() for gauge in self.sparsity.values()]
        width = max(map(len, densities))
        filled = [torch.nn.functional.pad(each, (0, width - len(each)), value=float("nan")) for each in densities]
        reads = tuple(self.sparsity)
        return Evaluation(
            provenance=ResultProvenance.of_weights(model),
            sparsity=labelled(self.sparsity, "read"),
            reconstruction=labelled(self.reconstruction, "write"),
            behaviour=labelled(dict(enumerate(self.behaviour, start=1)), "replaced"),
            density=Labelled(torch.stack(filled), ("read", "feature"), {"read": reads}, unit="share"),
            tokens=self.tokens,
        )


def labelled(gauges: Mapping[Any, Any], dim: str) -> Labelled:
    """One row for each gauge."""
    rows = [gauge.measures() for gauge in gauges.values()]
    values = torch.tensor([list(row.values()) for row in rows], dtype=torch.float64)
    return Labelled(values, (dim, "measure"), {dim: tuple(gauges), "measure": tuple(rows[0])})


def kept(run: mi.Run, skip: tuple[int, ...]) -> Bool[Tensor, "batch column"]:
    """The real tokens that count."""
    keep = run.mask.clone()
    for token in skip:
        keep &= run.tokens.to(keep.device) != token
    return keep


def read(each: Dictionary, values: Mapping[str, Tensor]) -> Float[Tensor, "..."]:
    """What a dictionary encodes: with several reads, side by side in a dim of their own."""
    if len(each.reads) == 1:
        return values[each.reads[0]]
    return torch.stack([values[point] for point in each.reads], dim=-2)


def written(each: Dictionary, x: Tensor, features: Any) -> dict[str, Tensor]:
    """What a dictionary makes of activations, by the points that it writes, skip connection included."""
    made = each.decode(features)
    skip = getattr(each, "skip", None)
    past = skip(x) if callable(skip) else None
    made = made if past is None else made + past
    return {each.writes[0]: made} if len(each.writes) == 1 else dict(zip(each.writes, made.unbind(-2), strict=True))


def splices(parts: DictionarySet, points: Sequence[str], keep: Bool[Tensor, "batch column"]) -> mi.HookSpec:
    """The reconstructions in the place of what stands at these points."""
    inserts = [mi.insert(Reconstructed(parts, point, keep), f"reconstructed {point}") for point in points]
    return sum(inserts, mi.HookSpec())


class Reconstructed:
    """An insert: what all dictionaries of a set that write a point make of what they read in this run."""

    sites: Sequence[Site] = ()
    reads: Sequence[str]
    writes: Sequence[str]

    def __init__(self, parts: DictionarySet, point: str, keep: Tensor) -> None:
        self.dictionaries = [each for each in parts.dictionaries if point in each.writes]
        self.reads = tuple(dict.fromkeys((*(name for each in self.dictionaries for name in each.reads), point)))
        self.writes, self.point, self.keep = (point,), point, keep

    def __call__(self, values: Mapping[str, Tensor], tap: Tap) -> Mapping[str, Tensor | mi.Intervention | None]:
        """Their sum, at the tokens that count."""
        made = [self.one(each, read(each, values)) for each in self.dictionaries]
        total = torch.stack(made).sum(0) if len(made) > 1 else made[0]
        stood = values[self.point]
        return {self.point: torch.where(spread(self.keep, stood), total.reshape(stood.shape).to(stood.dtype), stood)}

    def one(self, each: Dictionary, x: Tensor) -> Tensor:
        """What one dictionary writes at the point."""
        return written(each, x, each.encode(x, sparse=True))[self.point]


class Zeros:
    """An insert: zeros at a point, at the tokens that count."""

    sites: Sequence[Site] = ()
    reads: Sequence[str]
    writes: Sequence[str]

    def __init__(self, point: str, keep: Tensor) -> None:
        self.reads = self.writes = (point,)
        self.keep = keep

    def __call__(self, values: Mapping[str, Tensor], tap: Tap) -> Mapping[str, Tensor | mi.Intervention | None]:
        """What stands there, erased."""
        [(point, value)] = values.items()
        return {point: value.masked_fill(spread(self.keep, value), 0)}


def spread(keep: Bool[Tensor, "batch column"], value: Float[Tensor, "batch column ..."]) -> Bool[Tensor, "..."]:
    """A mask of tokens, with the dims that a value has behind them."""
    return keep.reshape(*keep.shape, *(1,) * (value.ndim - keep.ndim))
