"""A corpus as documents, one after the other, always in the same order: texts, or token ids."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from mi_core.errors import InputError
from mi_core.harvests.listing import files_of, refuse_names_as_texts
from mi_core.harvests.record_files import Divided, field_named, records_of

__all__ = ["Content", "Corpus", "Document", "corpus_of"]

Content: TypeAlias = str | tuple[int, ...]
TAKEN = (
    "Data are a file, folder or pattern, or a list of these (text, JSON lines, parquet, Arrow), a datasets.Dataset, a "
    "table, or anything that gives texts, token ids, or mappings with a field of these"
)


@dataclass(frozen=True)
class Document:
    """One document of a corpus."""

    number: int
    """Its place in the corpus, counted from 0."""
    content: Content
    done: int
    """How much of the corpus's ``total`` ends with it."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """Documents in order."""

    name: str
    records: Callable[[], Iterator[tuple[Any, int]]]
    """What each document is made of, and how much of ``total`` ends with it."""
    total: int | None = None
    """Bytes of files, or documents; None where nobody knows."""
    field: str | None = None
    """Of records that are mappings: where the document is."""

    def __iter__(self) -> Iterator[Document]:
        """The documents.

        Raises:
            InputError: a record that is no document, or lacks the field.
        """
        for number, (record, done) in enumerate(self.records()):
            where = f"document {number} of {self.name}"
            if isinstance(record, Mapping):
                record = record[field_named(list(record), self.field, where)]
            yield Document(number, content_of(record, where), done)


def corpus_of(data: Any, *, field: str | None = None, divided: Divided | None = None) -> Corpus:
    """What data are as a corpus.

    Args:
        data: a file, folder or pattern as a path, or a list of `Path`; a `datasets.Dataset`, a pyarrow table, a data
            frame, ids ``[batch pos]``, or any iterable of texts, token ids or mappings.
        field: of mappings and tables, what holds the document; by default ``text``, or the only one there is.
        divided: how text files are divided: each ``"line"`` (the default) or ``"paragraph"`` a document, or the whole
            ``"file"``; blank lines are no documents. Given, files of any name are read as text.

    Raises:
        InputError: nothing of these, a file that is not there or of an unknown kind, or a list of names of files.

    >>> [document.content for document in corpus_of([{"text": "One."}, {"text": "Two."}])]
    ['One.', 'Two.']
    """
    if isinstance(data, str | Path):
        data = [Path(data)]
    if isinstance(data, list | tuple) and data and all(isinstance(part, Path) for part in data):
        return of_files(data, field, divided)
    if divided is not None:
        raise InputError(f"divided={divided!r} says how text files are divided; these data are {named(data)}.")
    columns = getattr(data, "column_names", None)
    if columns is None and hasattr(data, "columns") and hasattr(data, "__getitem__"):
        column = data[field_named(list(data.columns), field, named(data))]  # a data frame
        return Corpus(named(data), partial(counted, column), len(column) or None)
    if isinstance(columns, Mapping):
        raise InputError(f"the data have several splits ({', '.join(columns)}): give one, such as data['train'].")
    if columns is not None:
        return of_table(data, [str(column) for column in columns], field)
    if isinstance(data, list | tuple) and all(isinstance(part, str) for part in data):
        refuse_names_as_texts(data)
    if isinstance(data, Tensor | np.ndarray) and data.ndim != 2:
        raise InputError(f"ids of the shape {list(data.shape)} are no documents: give [batch pos], or a list of rows.")
    if isinstance(data, Mapping) or not isinstance(data, Iterable):
        raise InputError(f"{named(data)} is no corpus. {TAKEN}.")
    return Corpus(named(data), partial(counted, data), operator.length_hint(data) or None, field)


def of_files(paths: Sequence[Path], field: str | None, divided: Divided | None) -> Corpus:
    """The records of files, one file behind the other."""
    name = str(paths[0]) if len(paths) == 1 else f"{len(paths)} paths from {paths[0]} on"
    paths = [file for path in paths for file in files_of(path, as_text=divided is not None)]
    readers = [records_of(path, field, divided) for path in paths]
    sizes = [path.stat().st_size for path in paths]

    def records() -> Iterator[tuple[Any, int]]:
        before = 0
        for reader, size in zip(readers, sizes, strict=True):
            for record, done in reader():
                yield record, before + done
            before += size

    return Corpus(name, records, sum(sizes) or None, field)


def of_table(data: Any, columns: list[str], field: str | None) -> Corpus:
    """The column that holds the documents, of a `datasets.Dataset` or a pyarrow table."""
    chosen = field_named(columns, field, named(data))
    if hasattr(data, "to_batches"):
        batches = data.select([chosen]).to_batches()
        return Corpus(named(data), lambda: counted(v for b in batches for v in b.column(0).to_pylist()), data.num_rows)
    alone = data.select_columns([chosen]) if hasattr(data, "select_columns") else data
    return Corpus(named(data), partial(counted, alone), operator.length_hint(data) or None, chosen)


def counted(data: Iterable[Any]) -> Iterator[tuple[Any, int]]:
    """Records, each with how many there are up to it."""
    return ((record, number) for number, record in enumerate(data, 1))


def content_of(value: Any, where: str) -> Content:
    """A document's content: a text, or ids.

    Raises:
        InputError: it is neither.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Tensor | np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        with suppress(TypeError):
            if not any(isinstance(item, bool) for item in value):
                return tuple(map(operator.index, value))
    raise InputError(f"{where} is neither a text nor a list of token ids: {value!r:.80}.", document=where)


def named(data: Any) -> str:
    """What kind of thing data are, and what a `datasets.Dataset` says that it is of."""
    kind = type(data).__name__
    about = getattr(data, "info", None)
    said = [getattr(about, "dataset_name", None), getattr(about, "config_name", None), getattr(data, "split", None)]
    of = f" ({', '.join(map(str, said))})" if said[0] and said[2] else ""
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}{of}"
