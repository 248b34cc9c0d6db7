"""Activations over a corpus, into a folder: shard by shard, from wherever it was left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from mi_core.abreast import comes_and_goes
from mi_core.errors import EmptyInput, HarvestMismatch, SelectorError, TokenizerError, TokenOutOfRange
from mi_core.harvests.atomic import locked, made
from mi_core.harvests.collecting import Collector
from mi_core.harvests.corpora import Corpus, Document, corpus_of
from mi_core.harvests.folder import Folder
from mi_core.harvests.forecast import Forecast
from mi_core.harvests.progress import ProgressBar
from mi_core.harvests.ranks import Ranks, ranks
from mi_core.harvests.reading import Harvest
from mi_core.harvests.record_files import Divided
from mi_core.harvests.settings import Asked, spec_of
from mi_core.harvests.shards import write_shard
from mi_core.harvests.windows import Cursor, Cut, Cutter
from mi_core.spec import HookSpec
from mi_core.tokenizer import no_tokenizer

if TYPE_CHECKING:
    from mi_core.model import Model

__all__ = ["HarvestInterrupted", "harvest"]


class HarvestInterrupted(KeyboardInterrupt):
    """Ctrl-C during a harvest; whole shards are kept, and the same call goes on from them."""

    def __init__(self, folder: Path, shards: int) -> None:
        super().__init__(f"interrupted; {str(folder)!r} has {shards} whole shards, and the same call goes on from them")
        self.folder = folder
        self.shards = shards


def harvest(
    model: Model,
    data: Any,
    points: str | Sequence[str] | HookSpec,
    out: str | Path,
    *,
    spec: HookSpec | None = None,
    pos: Any = None,
    dtype: Any = None,
    field: str | None = None,
    divided: Divided | None = None,
    context: int | None = None,
    overlap: int = 0,
    long: Literal["split", "refuse"] = "split",
    repeat_bos: bool = True,
    skip_bos: bool = False,
    batch_tokens: int | None = None,
    shard_rows: int | None = None,
    check_room: bool = True,
    progress: bool | None = None,
) -> Harvest:
    """Which activations does a model have on a corpus? Written to a folder, a row for each token that is kept.

    Called again, it goes on from the shards that are there, and ends with the same bytes as a harvest that nothing
    stopped. Under ``accelerate launch`` each process makes its part, with the same result.

    Args:
        model: the model; the run stops after the last layer that is needed.
        data: a path or a list of `Path` (text, JSON lines, parquet, Arrow), a `datasets.Dataset`, or any iterable of
            texts, token ids or mappings; given again in the same order to go on.
        points: names and patterns of points whose dims begin with ``batch pos``, or a spec that captures them.
        out: the folder; it is made.
        spec: interventions and inserts.
        pos: which positions of each window to keep, as selectors of captures say it; None for all.
        dtype: what to store floating-point numbers as; None as they are computed.
        field: where the document is, in records of several fields.
        divided: how text files are divided into documents: ``"line"``, ``"paragraph"`` or ``"file"``.
        context: tokens that the model reads at one time; None for what it has positions for, 1024 at most.
        overlap: tokens of the window before that each further window of a document begins with; they are context, and
            are not kept a second time.
        long: ``"split"`` documents that are longer than the context into windows, or ``"refuse"`` them.
        repeat_bos: begin every window of a document with its BOS, if it has one.
        skip_bos: leave out the rows of BOS.
        batch_tokens: tokens of one run of the model at most.
        shard_rows: rows of a shard; None for about 256 MB.
        check_room: refuse at once, judged by the first shard, what the disk has no room for.
        progress: show a bar, or where standard error is no terminal, lines; None for a bar or nothing.

    Raises:
        SpecError: a point that the model does not have, or that has no row for each token; nothing was written.
        InputError: data that are no corpus, or a document that the model cannot take.
        HarvestMismatch: the folder holds a harvest of something else; the message says what differs.
        HarvestLocked: somebody else is harvesting into the folder.
        HarvestError: the disk is full, in which case what was harvested is kept, or will not do.
        HarvestInterrupted: Ctrl-C; what was harvested is kept.
    """
    asked = Asked.of(
        model,
        spec_of(points, spec, pos),
        context=context,
        overlap=overlap,
        long=long,
        repeat_bos=repeat_bos,
        skip_bos=skip_bos,
        dtype=dtype,
        batch_tokens=batch_tokens,
        shard_rows=shard_rows,
    )
    corpus = corpus_of(data, field=field, divided=divided)
    together = ranks()
    source = {"name": corpus.name, "field": field, "divided": divided}
    folder = Folder(Path(out), asked.settings(), {**asked.about(), "data": source})
    made(folder.path)
    with locked(folder.path) if together.first else nullcontext():
        if together.first:
            folder.begin()
        together.wait()
        with ProgressBar(corpus.total, progress if together.first else False, together.count) as bar:
            foresee = partial(foreseen, asked, corpus, folder, bar, check_room) if together.first else None
            ends, end = carry_out(asked, corpus, folder, together, bar, foresee)
        together.wait()
        if together.first:
            folder.finish(ends, end)
        together.wait()
    harvested = Harvest(folder.path)
    if harvested.rows == 0:
        raise SelectorError(f"pos={asked.cutting.pos!r} keeps no token of any document of {corpus.name}.")
    return harvested


def carry_out(
    asked: Asked,
    corpus: Corpus,
    folder: Folder,
    together: Ranks,
    bar: ProgressBar,
    foresee: Callable[[Cut, int], None] | None,
) -> tuple[list[Cursor], Cursor]:
    """Make the shards that are missing and are this process's; where all of them end, and where the corpus does.

    ``foresee`` is told of the first of them, and what lies before it.
    """
    how = asked.cutting
    collector = Collector(asked.model, asked.spec, asked.batch_tokens, how.pos, asked.bos, asked.dtype)
    cutter = Cutter(corpus, lambda document: encoded(asked.model, document), how)
    there = folder.there()
    together.wait()  # nobody writes before everybody has seen what is there
    missing = Missing(cutter, there, folder.finished())
    written = len(there)
    with Writing(folder) as writing:
        try:
            for turn, (number, before, cut) in enumerate(missing):
                if turn == 0 and foresee is not None:
                    foresee(cut, before)
                if turn % together.count == together.index:
                    bar.advance(0, before)
                    writing.put(number, cut.end, collector.collect(cut.windows, ticks(bar, before, cut)))
                    written += 1
        except KeyboardInterrupt:
            raise HarvestInterrupted(folder.path, written) from None
    return missing.ends, cutter.cursor


def foreseen(
    asked: Asked, corpus: Corpus, folder: Folder, bar: ProgressBar, check_room: bool, cut: Cut, before: int
) -> None:
    """Say what there will be, if it takes a while, and refuse what there is no room for."""
    forecast = Forecast.of(asked, cut, before, corpus.total, folder.path)
    if forecast is not None:
        if check_room:
            forecast.refuse_without_room(folder.path)
        if forecast.shards > 1 or comes_and_goes(asked.model.backend):
            bar.say(forecast.lines(asked.model))


@dataclass(eq=False)
class Missing:
    """The shards that are not there, in order; what is there is compared with the corpus on the way."""

    cutter: Cutter
    there: Mapping[int, Cursor]
    finished: Mapping[int, Cursor] | None
    """Where each shard ended, if the harvest was finished before."""
    ends: list[Cursor] = field(default_factory=list)
    """Where the shards end that were passed."""

    def __iter__(self) -> Iterator[tuple[int, int, Cut]]:
        """Number, what lies before it of the corpus's total, and windows."""
        while True:
            number, before = len(self.ends), self.cutter.done
            if number in self.there:
                self.cutter.skip(self.there[number])
                self.ends.append(self.there[number])
            elif (cut := self.cutter.next()) is None:
                break
            elif self.finished is not None and self.finished.get(number) != cut.end:
                raise self._other("has other documents than those")
            elif any(end.ended and number > last for last, end in self.there.items()):
                raise self._other("has more documents than those")
            else:
                yield number, before, cut
                self.ends.append(cut.end)
        if not self.ends:
            raise EmptyInput(f"{self.cutter.name} has no document with a token, so there is nothing to harvest.")
        if self.there and max(self.there) >= len(self.ends):
            raise self._other("has fewer documents than those")

    def _other(self, what: str) -> HarvestMismatch:
        return HarvestMismatch(
            f"{self.cutter.name} {what} that were harvested into the folder. Give the same data, or another folder."
        )


class Writing:
    """Writes one shard while the next is made."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def __enter__(self) -> Writing:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown()
        if kind is None:
            self._wait()

    def put(self, number: int, end: Cursor, tensors: Mapping[str, Tensor]) -> None:
        """Write a shard, once the one before is written; its errors are raised here."""
        self._wait()
        self._last = self._pool.submit(write_shard, self._folder.path, number, self._folder.fingerprint, end, tensors)

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()


def ticks(bar: ProgressBar, before: int, cut: Cut) -> Callable[[int], None]:
    """What tells the bar of runs within a shard."""
    tokens = 0

    def tick(more: int) -> None:
        nonlocal tokens
        tokens += more
        bar.advance(more, before + (cut.done - before) * tokens / cut.tokens)

    return tick


def encoded(model: Model, document: Document) -> Sequence[int]:
    """The tokens of a document; none of an empty text.

    Raises:
        NoTokenizer: a text, and the model has no tokenizer.
        TokenizerError: a text that it cannot encode.
        TokenOutOfRange: an id that the model does not have.
    """
    ids = document.content
    if isinstance(ids, str):
        if model.tokenizer is None:
            raise no_tokenizer(model.name)
        try:
            return model.tokenizer.encode(ids).ids if ids else ()
        except TokenizerError as error:
            raise TokenizerError(f"document {document.number}: {error}", document=document.number) from error
    outside = next((token for token in ids if not 0 <= token < model.shape.d_vocab), None)
    if outside is not None:
        raise TokenOutOfRange(
            f"document {document.number} holds token {outside}; the vocabulary has {model.shape.d_vocab}.",
            id=outside,
            document=document.number,
        )
    return ids
