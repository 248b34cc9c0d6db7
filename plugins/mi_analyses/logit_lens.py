"""The logit lens: what would the model say next if it stopped after this layer?

Reach for it to see where in depth an answer appears. Early layers of many models are not in the basis of the
unembedding, so a flat early lens says little (Belrose et al. 2023 train a translator for each layer instead).

Source: nostalgebraist 2020, "interpreting GPT: the logit lens"; KL as in Belrose et al. 2023, "Eliciting Latent
Predictions from Transformers with the Tuned Lens" (arXiv:2303.08112): from the final distribution to the layer's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

import mi_core as mi
from mi_analyses.readout import Readout, read_out
from mi_core.analyses import Analysis, require
from mi_core.errors import SelectorError, TokenOutOfRange
from mi_core.hookspecs import hookimpl
from mi_core.labelled import Label, Labelled
from mi_core.names import Point
from mi_core.results import Result, ResultProvenance
from mi_core.selectors import Mask, TextPosition, canonical, chosen
from mi_core.spec import Capture
from mi_core.tokenizer import no_tokenizer

__all__ = ["LogitLens", "logit_lens"]

NEEDS = ("hook_resid_pre", "hook_resid_post")
SITES = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")


@dataclass(frozen=True, kw_only=True, eq=True)
class LogitLens(Result):
    """What each point of the stream says next, at each position.

    Axes: ``point`` (names of points, in order), ``batch``, ``pos`` (position and token), ``top`` (1 is the likeliest),
    ``token`` (the given ones). A row with fewer positions than others has NaN behind its own, and -1 in counts.
    """

    probability: Labelled
    """Of the top tokens: point batch pos top."""
    top_id: Labelled
    """The ids of the top tokens: point batch pos top."""
    entropy: Labelled
    """Of the point's distribution, in nats: point batch pos."""
    kl: Labelled
    """From the final distribution to the point's, in nats: point batch pos. Zero at the last layer."""
    answer_id: Labelled
    """What the model says in the end: batch pos."""
    answer_probability: Labelled
    """Of that token: point batch pos."""
    answer_rank: Labelled
    """Of that token, 1 for the likeliest: point batch pos."""
    answer_enters: Labelled
    """The first layer in which that token is among the top: batch pos."""
    token_probability: Labelled
    """Of the given tokens: point batch pos token."""
    token_rank: Labelled
    """Of the given tokens: point batch pos token."""
    token_enters: Labelled
    """The first layer in which a given token is among the top, -1 for never: batch pos token."""
    position: Labelled
    """The real position of each column, -1 where a row has none: batch pos."""
    text: Mapping[int, str]
    """The text of every id above."""

    title: ClassVar[str] = "Logit lens"
    template: ClassVar[str] = "mi_analyses/logit_lens.html"
    views: ClassVar[str] = "mi_analyses.logit_lens_view"


def logit_lens(
    model: mi.Model,
    inputs: Any,
    *,
    top: int = 5,
    pos: Any = None,
    tokens: Sequence[str | int] = (),
    sites: Sequence[str] = SITES,
    spec: mi.HookSpec | None = None,
    attention_mask: Any = None,
    position_ids: Any = None,
) -> LogitLens:
    """What would the model say next if it stopped after this layer?

    Every point of ``sites`` goes through the final norm, the unembedding and the soft-cap, so that the last layer is
    the model's own output. ``hook_resid_pre`` is read in layer 0 and wherever the ``hook_resid_post`` before it is not
    read. ``pos`` selects as in ``capture(...).at(pos=...)``; ``tokens`` (texts that are one token, or ids) are followed
    through the layers. The interventions of ``spec`` are in force, except at the unembedding, which the lens takes as
    it is; its captures are left out.

    Raises:
        UnsupportedAnalysis: the model has no residual stream to read.
        NotSingleToken: a text of ``tokens`` is several tokens.
        TokenOutOfRange: an id of ``tokens`` is not in the vocabulary.
        SelectorError: no position selected, or ``top`` beyond the vocabulary.
    """
    require(model, NEEDS, "logit_lens")
    size = model.shape.d_vocab
    if not 1 <= top <= size:
        raise SelectorError(f"top={top!r}: the vocabulary has {size} tokens, so top lies between 1 and {size}", top=top)
    followed = tuple(token_id(model, token) for token in tokens)
    points = lens_points(model, sites)
    last = f"blocks.{model.shape.n_layers - 1}.hook_resid_post"
    names = [point.name for point in points]
    reads = mi.capture(names if last in names else [*names, last])
    if pos is not None:
        reads = reads.at(pos=pos)
    writes = tuple(entry for entry in spec.entries if not isinstance(entry, Capture)) if spec else ()
    whole = mi.HookSpec(writes) + reads
    run = model.run(inputs, whole, logits=None, attention_mask=attention_mask, position_ids=position_ids)
    columns = Columns.of(run, pos)
    streams = {name: columns.gather(run[name]) for name in {*names, last}}
    readout = read_out(model.unembed, streams, names, last, top, followed)
    provenance = ResultProvenance.of(model, run, whole, inputs)
    return assembled(run, provenance, points, columns, readout, followed)


def lens_points(model: mi.Model, sites: Sequence[str]) -> list[Point]:
    """The points of these sites, in firing order, without the second name of a tensor that is read already.

    Raises:
        UnknownPoint: no layer has the site (``hook_resid_mid`` may be absent: parallel layers have none).
        SelectorError: what lies there is no vector of the residual stream.
    """
    chosen: list[Point] = []
    for site in sites:
        if site in SITES:
            chosen += [point for point in model.hook_points() if point.site.name == site]
        else:
            chosen += model.hook_points(f"blocks.*.{site}")
    for point in chosen:
        if point.site.dims != ("batch", "pos", "d_model"):
            raise SelectorError(
                f"{point.name!r} has the axes {point.site.dims!r}; the lens reads ('batch', 'pos', 'd_model') only",
                point=point.name,
            )
    order = {point.name: number for number, point in enumerate(model.hook_points())}
    read = {(point.layer, point.site.name) for point in chosen}
    return sorted(
        (
            point
            for point in chosen
            if point.site.name != "hook_resid_pre" or ((point.layer or 0) - 1, "hook_resid_post") not in read
        ),
        key=lambda point: order[point.name],
    )


@dataclass(frozen=True)
class Columns:
    """Which positions are read in each row, counted on real tokens, whatever the padding."""

    rows: tuple[tuple[int, ...], ...]
    labels: tuple[Label, ...]
    present: Bool[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch column"] | None
    """Where the real tokens are, if whole rows were captured."""

    @classmethod
    def of(cls, run: mi.Run, pos: Any) -> Columns:
        """What ``pos`` selects in each row of the run; None is every real token."""
        tokens = run.text_tokens
        selector = slice(None) if pos is None else canonical("pos", pos)
        rows = tuple(selected(run, selector, row, len(texts)) for row, texts in enumerate(tokens))
        width = max(map(len, rows))
        present = torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
        columns = [
            {(row[column], texts[row[column]]) for row, texts in zip(rows, tokens, strict=True) if column < len(row)}
            for column in range(width)
        ]
        labels: Iterable[Label] = range(width)
        if all(len(here) == 1 for here in columns):
            labels = [next(iter(here)) for here in columns]
        elif all(len({position for position, _ in here}) == 1 for here in columns):
            labels = [min(here)[0] for here in columns]  # the rows have other tokens there
        elif isinstance(pos, int):
            labels = [pos]
        return cls(rows, tuple(labels), present, run.mask if pos is None else None)

    def gather(self, value: Tensor) -> Float[Tensor, "cell d_model"]:
        """The vectors at the positions, row after row."""
        if self.mask is not None:
            return value[self.mask.to(value.device)]
        return value.reshape(*self.present.shape, value.shape[-1])[self.present.to(value.device)]

    def spread(self, cells: Tensor, axis: int) -> Tensor:
        """``axis``, which counts cells, as batch and pos; NaN or -1 where a row has no such position."""
        moved = cells.movedim(axis, 0)
        absent = float("nan") if cells.is_floating_point() else -1
        whole = moved.new_full((*self.present.shape, *moved.shape[1:]), absent)
        whole[self.present] = moved
        return whole.movedim((0, 1), (axis, axis + 1))


def selected(run: mi.Run, selector: Any, row: int, count: int) -> tuple[int, ...]:
    """The positions of one row that a selector stands for."""
    if isinstance(selector, TextPosition):
        return tuple(selector.resolve(run._prompts.rows[row], row))
    if isinstance(selector, Mask):
        return tuple(index for index, wanted in enumerate(selector) if wanted and index < count)
    return tuple(chosen(selector, count, dim="pos", where=f"row {row}"))


def assembled(
    run: mi.Run,
    provenance: ResultProvenance,
    points: Sequence[Point],
    columns: Columns,
    out: Readout,
    followed: tuple[int, ...],
) -> LogitLens:
    """The numbers under their labels."""
    seen = {*out.top_id.flatten().tolist(), *out.answer_id.tolist(), *followed}
    texts = {token: run.text_of(token) for token in sorted(seen)}
    coords: dict[str, Sequence[Label]] = {
        "point": tuple(point.name for point in points),
        "batch": tuple(range(len(columns.rows))),
        "pos": columns.labels,
        "top": tuple(range(1, out.top_id.shape[-1] + 1)),
        "token": tuple(texts[token] for token in followed),
    }
    everywhere = ("point", "batch", "pos")

    def labelled(name: str, cells: Tensor, dims: tuple[str, ...], unit: str = "") -> Labelled:
        values = columns.spread(cells, dims.index("batch"))
        return Labelled(values, dims, {dim: coords[dim] for dim in dims}, name, unit)

    layers = [point.layer or 0 for point in points]
    top = out.top_id.shape[-1]
    where = torch.tensor([position for row in columns.rows for position in row])
    return LogitLens(
        provenance=provenance,
        probability=labelled("probability", out.top_probability, (*everywhere, "top"), "probability"),
        top_id=labelled("top_id", out.top_id, (*everywhere, "top")),
        entropy=labelled("entropy", out.entropy, everywhere, "nats"),
        kl=labelled("kl", out.kl, everywhere, "nats"),
        answer_id=labelled("answer_id", out.answer_id, ("batch", "pos")),
        answer_probability=labelled("answer_probability", out.answer_probability, everywhere, "probability"),
        answer_rank=labelled("answer_rank", out.answer_rank, everywhere),
        answer_enters=labelled("answer_enters", first_layer(out.answer_rank, layers, top), ("batch", "pos")),
        token_probability=labelled("token_probability", out.token_probability, (*everywhere, "token"), "probability"),
        token_rank=labelled("token_rank", out.token_rank, (*everywhere, "token")),
        token_enters=labelled("token_enters", first_layer(out.token_rank, layers, top), ("batch", "pos", "token")),
        position=labelled("position", where, ("batch", "pos")),
        text=texts,
    )


def first_layer(rank: Int[Tensor, "point *cells"], layers: Sequence[int], top: int) -> Int[Tensor, "*cells"]:
    """The layer of the first point at which a token is among the top; -1 where it never is."""
    inside = rank <= top
    layer = torch.tensor(layers)[inside.int().argmax(0)]
    return torch.where(inside.any(0), layer, -1)


def token_id(model: mi.Model, token: str | int) -> int:
    """The id of a token that is given as its text, or as its id."""
    if isinstance(token, str):
        if model.tokenizer is None:
            raise no_tokenizer(model.name)
        return model.tokenizer.single(token)
    if not 0 <= token < model.shape.d_vocab:
        raise TokenOutOfRange(f"token {token!r}: the vocabulary has {model.shape.d_vocab}, from 0", id=token)
    return token


@hookimpl
def mi_analysis() -> Analysis:
    """What the core needs to know about the lens."""
    return Analysis("What would the model say next if it stopped after this layer?", NEEDS, logit_lens)


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi lens``."""
    from mi_analyses.logit_lens_command import lens

    return lens
