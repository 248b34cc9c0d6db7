"""A checkpoint's folder, wherever it is: on disk, inside an installed package, or a snapshot of the Hub."""

from __future__ import annotations

import atexit
import json
from contextlib import ExitStack
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from mi_core.errors import BadConfig, CorruptCheckpoint, ModelNotFound

__all__ = ["Files"]


class Files:
    """Which files does a checkpoint have, and where do they lie?

    Names are relative, with forward slashes. ``where`` says in words what this is, for messages; ``revision`` is the
    commit where the Hub has one. ``only`` names the one file that counts, of a checkpoint that is a file.

    Raises:
        CorruptCheckpoint: a name that points outside the folder.
        ModelNotFound: no such file.
        BadConfig: a JSON file that holds no JSON object.
    """

    def __init__(
        self,
        root: Path | Traversable,
        *,
        where: str | None = None,
        revision: str | None = None,
        only: str | None = None,
    ) -> None:
        self.root = root
        self.only = only
        self.where = str(root) if where is None else where
        self.revision = revision

    def __repr__(self) -> str:
        return f"Files({self.where!r})"

    def names(self) -> tuple[str, ...]:
        """The files that lie directly in the folder, sorted."""
        if not self.root.is_dir():
            return ()
        return tuple(
            sorted(entry.name for entry in self.root.iterdir() if entry.is_file() and self._counts(entry.name))
        )

    def folders(self) -> tuple[str, ...]:
        """The folders that lie directly in this one, sorted."""
        if not self.root.is_dir():
            return ()
        return tuple(sorted(entry.name for entry in self.root.iterdir() if entry.is_dir()))

    def inside(self, name: str) -> Files:
        """The files of a folder in this one."""
        entry = self._entry(name)
        if not entry.is_dir():
            raise ModelNotFound(
                f"{self.where}: no folder {name!r}. It has: {', '.join(self.folders()) or 'none'}.",
                name=name,
                where=self.where,
            )
        return Files(entry, where=f"{self.where}, folder {name!r}", revision=self.revision)

    def above(self) -> Files | None:
        """The files of the folder around this one; None where there is none, or it is none of ours."""
        if not isinstance(self.root, Path) or self.root.absolute() == self.root.absolute().parent:
            return None
        parent = self.root.absolute().parent
        return Files(parent, where=f"folder {str(parent)!r}", revision=self.revision)

    @property
    def place(self) -> PurePosixPath:
        """Where the folder lies, for facts that only its name holds: a path on disk, or repository and folder."""
        return PurePosixPath(self.root.absolute().as_posix() if isinstance(self.root, Path) else str(self.root))

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return self._counts(name) and is_file(self._entry(name))

    def _counts(self, name: str) -> bool:
        return self.only in (None, name)

    def path(self, name: str) -> Path:
        """A real path to a file; one inside an archive is unpacked until the process ends."""
        entry = self._entry(name)
        if not self._counts(name) or not is_file(entry):
            raise ModelNotFound(
                f"{self.where}: no file {name!r}. It has: {', '.join(self.names()) or 'nothing'}.",
                name=name,
                where=self.where,
            )
        return entry if isinstance(entry, Path) else unpacked(entry)

    def read_bytes(self, name: str) -> bytes:
        """The content of a file."""
        try:
            return self.path(name).read_bytes()
        except OSError as error:
            raise ModelNotFound(
                f"{self.where}: {name!r} cannot be read: {error.strerror}.", name=name, where=self.where
            ) from error

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file that must hold an object."""
        data = self.read_bytes(name)
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BadConfig(
                f"{self.where}: {name!r} is not valid JSON: {error}. It begins with {data[:40]!r}.",
                name=name,
                where=self.where,
            ) from error
        if not isinstance(value, dict):
            raise BadConfig(
                f"{self.where}: {name!r} must hold a JSON object, it holds a {type(value).__name__}.",
                name=name,
                where=self.where,
            )
        return value

    def _entry(self, name: str) -> Path | Traversable:
        return self.root.joinpath(*self._relative(name).parts)

    def _relative(self, name: str) -> PurePosixPath:
        pure = PurePosixPath(name)
        # Judged by the text alone: the files of a Hub snapshot are links that lead out of their folder by design.
        if (
            not pure.parts
            or ".." in pure.parts
            or pure.is_absolute()
            or {"\0", "\\"} & set(name)
            or PureWindowsPath(name).drive
        ):
            raise CorruptCheckpoint(
                f"{self.where}: the file name {name!r} points outside the folder; it is not read.",
                name=name,
                where=self.where,
            )
        return pure


def is_file(entry: Path | Traversable) -> bool:
    """Whether a file is there; a name that no file system takes is none."""
    try:
        return entry.is_file()
    except OSError:
        return False


_archives = ExitStack()
atexit.register(_archives.close)
_unpacked: dict[str, Path] = {}


def unpacked(entry: Traversable) -> Path:
    """A real path for a resource, the same one each time."""
    key = str(entry)
    if key not in _unpacked:
        _unpacked[key] = _archives.enter_context(resources.as_file(entry))
    return _unpacked[key]
