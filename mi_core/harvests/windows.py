"""Documents as windows of the model's context, and windows as shards: which tokens each shard is about.

A shard is determined by its number: by the documents and by how they are cut, never by who makes it, or when.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np

from mi_core.errors import HarvestMismatch, InputError
from mi_core.harvests.corpora import Content, Corpus, Document
from mi_core.selectors import Selector

__all__ = ["Cursor", "Cut", "Cutter", "Cutting", "Window", "split"]

SHARD_TOKENS: Final = 1 << 18
"""Tokens of a shard at most, however few of them are kept: what a kill can cost."""


@dataclass(frozen=True)
class Window:
    """What the model reads at one time: a document, or a part of one."""

    document: int
    first: int
    """The place in the document of the token at position 0."""
    ids: tuple[int, ...]
    fresh: int = 0
    """Positions before it are context: an earlier window has them, or they are a repeated BOS."""


@dataclass(frozen=True)
class Cutting:
    """How documents are cut."""

    context: int
    overlap: int = 0
    repeat_bos: int | None = None
    """The token that is put before every window of a document that begins with it."""
    split: bool = True
    """Whether documents that are longer than the context are split; else they are refused."""
    shard_rows: int = 65536
    pos: Selector | None = None


@dataclass(frozen=True)
class Cursor:
    """How far into a corpus."""

    documents: int
    """Documents that were read."""
    windows: int
    """Windows of the last of them that were taken."""
    digest: str
    """A hash of what was read."""
    ended: bool = False
    """Whether the corpus was found to end there."""


@dataclass(frozen=True)
class Cut:
    """One shard's windows."""

    windows: tuple[Window, ...]
    end: Cursor
    done: int
    """How much of the corpus's ``total`` ends with it."""

    @property
    def tokens(self) -> int:
        """Tokens that the model reads for it."""
        return sum(len(window.ids) for window in self.windows)


def split(document: int, ids: Sequence[int], how: Cutting) -> Iterator[Window]:
    """The windows of a document: each token is fresh in exactly one of them.

    >>> [window.ids for window in split(0, (1, 7, 8, 9), Cutting(context=3, repeat_bos=1))]
    [(1, 7, 8), (1, 9)]
    >>> [(window.ids, window.fresh) for window in split(0, (5, 6, 7, 8), Cutting(context=3, overlap=1))]
    [((5, 6, 7), 0), ((7, 8), 1)]

    Raises:
        InputError: it is longer than the context, and is not to be split.
    """
    ids = tuple(ids)
    if len(ids) > how.context and not how.split:
        raise InputError(
            f"document {document} has {len(ids)} tokens and the context {how.context}: allow a larger context, or let "
            'long documents be split (long="split").',
            document=document,
            length=len(ids),
        )
    if ids:
        yield Window(document, 0, ids[: how.context])
    again = ids[:1] if ids[:1] == (how.repeat_bos,) else ()
    done = how.context
    while done < len(ids):
        begin = done - how.overlap
        piece = ids[begin : begin + how.context - len(again)]
        yield Window(document, begin - len(again), again + piece, len(again) + how.overlap)
        done = begin + len(piece)


class Cutter:
    """Goes through a corpus once, shard by shard; shards that are there already are skipped unread by the model."""

    def __init__(self, corpus: Corpus, encode: Callable[[Document], Sequence[int]], how: Cutting) -> None:
        self.how = how
        self.name = corpus.name
        self._documents = iter(corpus)
        self._encode = encode
        self._hash = hashlib.sha256()
        self._read = self._taken = self.done = 0
        self._ended = False
        self._ahead: Iterator[Window] = iter(())

    @property
    def cursor(self) -> Cursor:
        """Where it stands."""
        return Cursor(self._read, self._taken, self._hash.hexdigest(), self._ended)

    def next(self) -> Cut | None:
        """The next shard; None at the end of the corpus."""
        windows: list[Window] = []
        rows = tokens = 0
        while rows < self.how.shard_rows and tokens < SHARD_TOKENS:
            window = self._window()
            if window is None:
                break
            windows.append(window)
            rows += most_rows(window, self.how.pos)
            tokens += len(window.ids)
        return Cut(tuple(windows), self.cursor, self.done) if windows else None

    def skip(self, end: Cursor) -> None:
        """Go to the end of a shard that is there.

        Raises:
            HarvestMismatch: what was read until there is not what the shard was made of.
        """
        last: Document | None = None
        while self._read < end.documents and (last := self._document()) is not None:
            pass
        if self._read != end.documents or self._hash.hexdigest() != end.digest:
            why = f"it has {self._read} documents, not {end.documents} or more"
            if self._read == end.documents:
                why = f"its first {end.documents} documents are not the same"
            raise HarvestMismatch(
                f"{self.name} is not what was harvested into the folder: {why}. Give the same data, or another folder.",
                documents=end.documents,
            )
        if last is not None:
            self._ahead, self._taken = split(last.number, self._encode(last), self.how), 0
        wanted = end.windows - self._taken
        if sum(1 for _ in islice(self._ahead, wanted)) < wanted:
            raise HarvestMismatch(
                f"document {self._read - 1} of {self.name} has fewer tokens than when it was harvested: the tokenizer "
                "is another one. Harvest into another folder."
            )
        self._taken = end.windows

    def _window(self) -> Window | None:
        """The next window, of the document that is at hand or of one behind it; None where there is none."""
        while (window := next(self._ahead, None)) is None:
            document = self._document()
            if document is None:
                return None
            self._ahead = split(document.number, self._encode(document), self.how)
        self._taken += 1
        return window

    def _document(self) -> Document | None:
        document = next(self._documents, None)
        if document is None:
            self._ended = True
        else:
            self._hash.update(bytes_of(document.content))
            self._read, self._taken, self.done = self._read + 1, 0, document.done
        return document


def most_rows(window: Window, pos: Selector | None) -> int:
    """How many rows a window gives at most."""
    if isinstance(pos, int):
        return 1
    return min(len(pos), len(window.ids)) if type(pos) is tuple else len(window.ids) - window.fresh


def bytes_of(content: Content) -> bytes:
    """A document for hashing: no two sequences of documents have the same bytes."""
    if isinstance(content, str):
        kind, data = b"text", content.encode("utf-8", "surrogatepass")
    else:
        kind, data = b"ids.", np.asarray(content, "<i8").tobytes()
    return kind + len(data).to_bytes(8, "little") + data
