"""A file of bytes, unpacked on the way if its name says that it is compressed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from mi_core.errors import InputError, MiError

__all__ = ["COMPRESSED", "opened", "pyarrow"]

COMPRESSED: Final = (".gz", ".bz2", ".xz", ".zst")


@contextmanager
def opened(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """A file, unpacked if it is compressed; and the file as it is, which knows how far it was read.

    Raises:
        InputError: it cannot be read, or is not compressed as its name says, or ends too early.
    """
    try:
        with path.open("rb") as raw:
            yield unpacked(raw, path.suffix.lower()), raw
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}.", path=path) from error


def unpacked(raw: IO[bytes], kind: str) -> IO[bytes]:
    """The bytes that are packed in a file."""
    if kind == ".gz":
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
    if kind == ".bz2":
        return bz2.BZ2File(raw)
    if kind == ".xz":
        return lzma.LZMAFile(raw)
    if kind == ".zst":
        stream: Any = pyarrow("").CompressedInputStream(raw, "zstd")
        return io.BufferedReader(stream)
    return raw


def pyarrow(module: str) -> Any:
    """A module of pyarrow.

    Raises:
        MiError: it is not installed.
    """
    from importlib import import_module

    try:
        return import_module(f"pyarrow.{module}" if module else "pyarrow")
    except ImportError as error:
        raise MiError("parquet, Arrow and .zst files need pyarrow: pip install 'mi-core[data]'") from error
