"""Files as records: text, JSON lines, parquet, Arrow; the first two also compressed.

A record is a text, a list of ids or a mapping; beside each stands how many bytes of the file lie behind it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, Literal, TypeAlias

from mi_core.errors import InputError
from mi_core.harvests.unpacking import COMPRESSED, opened, pyarrow

__all__ = ["Divided", "Records", "field_named", "kind_of", "records_of"]

Divided: TypeAlias = Literal["line", "paragraph", "file"]
Records: TypeAlias = Iterator[tuple[Any, int]]
TEXT: Final = ("", ".txt", ".text", ".md")
JSON_LINES: Final = (".jsonl", ".ndjson", ".json")
PARQUET: Final = (".parquet", ".pq")
ARROW: Final = (".arrow", ".feather", ".ipc")
BATCH: Final = 1024
"""Records of a parquet file that are read at one time."""


def records_of(path: Path, field: str | None = None, divided: Divided | None = None) -> Callable[[], Records]:
    """How a file is read, by its name; ``divided`` reads it as text.

    Raises:
        InputError: a name that says nothing that is known, or the file lacks the field.
    """
    if divided not in (None, "line", "paragraph", "file"):
        raise InputError(f"divided={divided!r}: text is divided by 'line', 'paragraph' or 'file'.", divided=divided)
    kind = "text" if divided is not None else kind_of(path)
    if kind == "JSON lines":
        return partial(json_lines, path)
    if kind == "parquet":
        return partial(parquet, path, field)
    return partial(arrow, path, field) if kind == "Arrow" else partial(texts, path, divided or "line")


def kind_of(path: Path) -> str:
    """What a file holds, by its name.

    >>> kind_of(Path("part-0.JSONL.gz")), kind_of(Path("README"))
    ('JSON lines', 'text')

    Raises:
        InputError: the name says nothing that is known.
    """
    packed = path.suffix.lower() in COMPRESSED
    ending = Path(path.stem if packed else path).suffix.lower()
    kinds = {"text": TEXT, "JSON lines": JSON_LINES} | ({} if packed else {"parquet": PARQUET, "Arrow": ARROW})
    for kind, endings in kinds.items():
        if ending in endings:
            return kind
    known = ", ".join(filter(None, (*TEXT, *JSON_LINES, *PARQUET, *ARROW)))
    raise InputError(
        f"{str(path)!r}: files are read by their names, and {ending!r} is none of {known}, the text ones and the JSON "
        f"ones also with {', '.join(COMPRESSED)}. To read it as text, say how it is divided into documents: "
        "divided='line', 'paragraph' or 'file'.",
        path=path,
    )


def field_named(columns: Sequence[Any], field: str | None, where: str) -> Any:
    """Which of the columns holds the document: the one asked for, ``text``, or the only one.

    >>> field_named(["id", "text"], None, "the data")
    'text'

    Raises:
        InputError: there is none of the name, or nothing says which.
    """
    if field in columns:
        return field
    there = ", ".join(map(repr, columns)) or "none"
    if field is not None:
        close = difflib.get_close_matches(field, map(str, columns), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise InputError(f"{where} has no field {field!r}; it has {there}.{hint}", field=field, fields=tuple(columns))
    if "text" in columns:
        return "text"
    if len(columns) == 1:
        return columns[0]
    raise InputError(f"{where} has the fields {there}: say with field= which holds the text.", fields=tuple(columns))


def texts(path: Path, divided: Divided) -> Records:
    """The documents of a text file; blank ones are left out."""
    with opened(path) as (file, raw):
        if divided == "file":
            pieces: Iterator[bytes] = iter([file.read()])
        else:
            pieces = iter(file) if divided == "line" else paragraphs(file)
        for number, piece in enumerate(pieces, 1):
            text = decoded(piece, path, f"{divided} {number}")
            text = text if divided == "file" else text.strip("\r\n")
            if text.strip():
                yield text, raw.tell()


def paragraphs(lines: IO[bytes]) -> Iterator[bytes]:
    """Lines between blank lines, joined."""
    kept: list[bytes] = []
    for line in lines:
        if line.strip():
            kept.append(line)
        elif kept:
            yield b"".join(kept)
            kept = []
    yield b"".join(kept)


def json_lines(path: Path) -> Records:
    """One JSON value a line."""
    with opened(path) as (file, raw):
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(decoded(line, path, f"line {number}"))
            except ValueError as error:
                array = number == 1 and line.lstrip().startswith(b"[")
                hint = " Of an array `jq -c '.[]'` makes lines, one for each value." if array else ""
                raise InputError(f"{path}, line {number} is no JSON: {error}.{hint}", path=path, line=number) from None
            yield record, raw.tell()


def decoded(data: bytes, path: Path, where: str) -> str:
    """UTF-8 as text, without a byte-order mark."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, {where} is no UTF-8 ({error.reason} at its byte {error.start}): convert the file.", path=path
        ) from None


def parquet(path: Path, field: str | None) -> Records:
    """The column of a parquet file that holds the documents."""
    reader = pyarrow("parquet")
    with reading(path), reader.ParquetFile(path) as file:
        chosen = field_named(file.schema_arrow.names, field, str(path))
        batches = file.iter_batches(batch_size=BATCH, columns=[chosen])
        yield from column(batches, path, file.metadata.num_rows)


def arrow(path: Path, field: str | None) -> Records:
    """The column of an Arrow file, or of an Arrow stream in a file, that holds the documents."""
    reader = pyarrow("ipc")
    with reading(path), pyarrow("").memory_map(str(path)) as source:
        try:
            table = reader.open_file(source).read_all()
        except ValueError:  # what is no file is a stream
            source.seek(0)
            table = reader.open_stream(source).read_all()
        chosen = field_named(table.column_names, field, str(path))
        yield from column(table.select([chosen]).to_batches(BATCH), path, table.num_rows)


def column(batches: Any, path: Path, rows: int) -> Records:
    """The values of batches of one column."""
    size, read = path.stat().st_size, 0
    for batch in batches:
        for value in batch.column(0).to_pylist():
            read += 1
            yield value, size * read // rows


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What pyarrow says of a file that it cannot read, as an error of ours."""
    invalid = pyarrow("lib").ArrowInvalid
    try:
        yield
    except (invalid, OSError) as error:
        raise InputError(f"{path} cannot be read: {error}", path=path) from error
