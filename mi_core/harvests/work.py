"""The shards that are missing, made by this process: what is read, run and written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mi_core.abreast import comes_and_goes
from mi_core.budget import is_out_of_memory
from mi_core.errors import HarvestError, TokenizerError, TokenOutOfRange
from mi_core.harvests.collecting import Collector
from mi_core.harvests.corpora import Corpus, Document
from mi_core.harvests.folder import Folder, numbered
from mi_core.harvests.forecast import Forecast, shards_at_once
from mi_core.harvests.missing import Missing
from mi_core.harvests.progress import ProgressBar
from mi_core.harvests.ranks import Ranks
from mi_core.harvests.settings import Asked
from mi_core.harvests.windows import Cursor, Cut, Cutter
from mi_core.harvests.writing import Writing
from mi_core.tokenizer import ids_of, no_tokenizer

if TYPE_CHECKING:
    from mi_core.model import Model

__all__ = ["HarvestInterrupted", "Work"]


class HarvestInterrupted(KeyboardInterrupt):
    """Ctrl-C during a harvest; whole shards are kept, and the same call goes on from them."""

    def __init__(self, folder: Path, shards: int) -> None:
        super().__init__(f"interrupted; {str(folder)!r} has {shards} whole shards, and the same call goes on from them")
        self.folder = folder
        self.shards = shards


@dataclass(frozen=True, eq=False)
class Work:
    """What is to be done, and which of the processes that do it this is."""

    asked: Asked
    corpus: Corpus
    folder: Folder
    together: Ranks
    bar: ProgressBar
    check_room: bool = True

    def carry_out(self) -> tuple[list[Cursor], Cursor]:
        """Make the missing shards that are this process's; where all shards end, and where the corpus does.

        Raises:
            HarvestInterrupted: Ctrl-C.
            HarvestError: a run does not fit into the device's memory.
        """
        asked, how = self.asked, self.asked.cutting
        collector = Collector(asked.model, asked.spec, asked.batch_tokens, how.pos, asked.bos, asked.dtype)
        cutter = Cutter(self.corpus, lambda document: encoded(asked.model, document), how)
        there = self.folder.there()
        self.together.wait()  # nobody writes before everybody has seen what is there
        missing = Missing(cutter, there, self.folder.finished())
        try:
            with Writing(self.folder) as writing:
                for lot in self.lots(missing):
                    self.bar.advance(0, lot[0][1])
                    parts = [collector.making(cut.windows, ticks(self.bar, before, cut)) for _, before, cut in lot]
                    for (number, _, cut), tensors in zip(lot, collector.collect(parts), strict=True):
                        writing.put(number, cut.end, tensors)
        except KeyboardInterrupt:
            raise HarvestInterrupted(self.folder.path, len(list(numbered(self.folder.path)))) from None
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise no_memory(asked) from error
            raise
        return missing.ends, cutter.cursor

    def lots(self, missing: Missing) -> Iterator[list[tuple[int, int, Cut]]]:
        """Each n-th shard that is missing: one at a time, or several where weights come and go for all of them."""
        lot: list[tuple[int, int, Cut]] = []
        at_once = 1
        for turn, (number, before, cut) in enumerate(missing):
            if turn == 0:
                at_once = shards_at_once(self.asked, cut, self.together.count)
                self.foresee(cut, before, at_once)
            if turn % self.together.count == self.together.index:
                lot.append((number, before, cut))
            if len(lot) == at_once:
                yield lot
                lot = []
        if lot:
            yield lot

    def foresee(self, cut: Cut, before: int, at_once: int) -> None:
        """Say what there will be, judged by the first missing shard, if it takes a while.

        Raises:
            HarvestError: there is no room for it.
        """
        forecast = Forecast.of(self.asked, cut, before, self.corpus.total, self.folder.path)
        if forecast is None or not self.together.first:
            return
        if self.check_room:
            forecast.refuse_without_room(self.folder.path)
        if forecast.shards > 1 or comes_and_goes(self.asked.model.backend):
            self.bar.say(forecast.lines(self.asked.model, at_once * self.together.count))


def no_memory(asked: Asked) -> HarvestError:
    """The error of a run that does not fit."""
    return HarvestError(
        f"{asked.model.device} has no room for runs of {asked.batch_tokens} tokens: give batch_tokens= less than that, "
        "and another folder, because what is computed depends on it.",
        batch_tokens=asked.batch_tokens,
    )


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
            return ids_of(model.tokenizer, ids) if ids else ()
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
