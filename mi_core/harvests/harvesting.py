"""Activations over a corpus, into a folder: shard by shard, from wherever it was left."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mi_core.errors import SelectorError
from mi_core.harvests.atomic import locked, made
from mi_core.harvests.corpora import corpus_of
from mi_core.harvests.folder import Folder
from mi_core.harvests.progress import ProgressBar
from mi_core.harvests.ranks import ranks
from mi_core.harvests.reading import Harvest
from mi_core.harvests.record_files import Divided
from mi_core.harvests.settings import Asked, spec_of
from mi_core.harvests.work import HarvestInterrupted, Work
from mi_core.spec import HookSpec

if TYPE_CHECKING:
    from mi_core.model import Model

__all__ = ["HarvestInterrupted", "harvest"]


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
        data: a file, folder or pattern, or a list of `Path` (text, JSON lines, parquet, Arrow), a `datasets.Dataset`, a
            data frame, or any iterable of texts, token ids or mappings; given again in the same order to go on. Each
            document is tokenised as a whole, for which it takes a hundred bytes of memory for each of its own.
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
            ends, end = Work(asked, corpus, folder, together, bar, check_room).carry_out()
        together.wait()
        if together.first:
            folder.finish(ends, end)
        together.wait()
    harvested = Harvest(folder.path)
    if harvested.rows == 0:
        raise SelectorError(f"pos={asked.cutting.pos!r} keeps no token of any document of {corpus.name}.")
    return harvested
