"""Files that are there as a whole or not at all, and a folder that one process at a time writes into."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from mi_core.errors import HarvestError, HarvestLocked

__all__ = ["committed", "locked"]

LOCK = ".lock"


@contextmanager
def committed(path: Path) -> Iterator[Path]:
    """Another name to write a file under, which gets its own only when it is complete and on the disk.

    Raises:
        HarvestError: the disk is full, or cannot be written; whatever had the name before still has it.
    """
    from safetensors import SafetensorError

    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.chmod(path.parent.stat().st_mode & 0o666)  # safetensors writes for its owner alone
        flush(part)
        part.replace(path)
        flush(path.parent)
    except (OSError, SafetensorError) as problem:
        free = shutil.disk_usage(path.parent).free
        raise HarvestError(
            f"{path.name!r} cannot be written into {str(path.parent)!r}: {problem}. {free / 1e6:.1f} MB are free "
            "there. What was harvested is kept: make room, and the same call goes on from it.",
            path=path,
            free=free,
        ) from problem
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A folder that nobody else may write into; the system takes the lock back from a process that was killed.

    Raises:
        HarvestLocked: somebody has it.
    """
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        if not lock(file):
            file.seek(0)
            raise HarvestLocked(
                f"{str(folder)!r} is being written by {file.read() or 'another process'}. Wait for it, or harvest into "
                "another folder.",
                folder=folder,
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def lock(file: IO[str]) -> bool:
    """Lock an open file; False where somebody else has it."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # nor in this file system; a harvest is safe without, two at one time only do the work twice
        return True
    return True
