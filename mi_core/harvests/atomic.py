"""Files that are there as a whole or not at all, and a folder that one process at a time writes into."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from mi_core.errors import HarvestError, HarvestLocked

__all__ = ["committed", "locked", "made"]

LOCK = ".lock"


@contextmanager
def committed(path: Path) -> Iterator[Path]:
    """Another name to write a file under, which gets its own only when it is complete and on the disk.

    Raises:
        HarvestError: the disk is full, or cannot be written; whatever had the name before still has it.
    """
    from safetensors import SafetensorError

    # a name that nobody else writes under: one who was left behind by a harvest that ended may still be at it
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        part.chmod(path.parent.stat().st_mode & 0o666)  # safetensors writes for its owner alone
        flush(part)
        part.replace(path)
        flush(path.parent)
    except (OSError, SafetensorError) as problem:
        removed(part)
        raise unwritable(path, problem) from problem
    finally:
        removed(part)


def removed(part: Path) -> None:
    """Remove what was not completed, if it can be."""
    with suppress(OSError):
        part.unlink(missing_ok=True)


def unwritable(path: Path, problem: Exception) -> HarvestError:
    """The error of a file that cannot be written, with the room that there is."""
    there = next((folder for folder in path.parents if folder.is_dir()), Path())
    free = shutil.disk_usage(there).free
    return HarvestError(
        f"{path.name!r} cannot be written into {str(path.parent)!r}: {problem}. {free / 1e6:.1f} MB are free "
        "there. What was harvested is kept: once there is room and leave to write, the same call goes on from it.",
        path=path,
        free=free,
    )


def made(folder: Path) -> None:
    """Make a folder, if it is not there.

    Raises:
        HarvestError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise HarvestError(f"the folder {str(folder)!r} cannot be made: {problem}.", folder=folder) from problem


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
        HarvestError: the folder cannot be written into.
    """
    try:
        file = (folder / LOCK).open("ab+", buffering=0)
    except OSError as problem:
        raise unwritable(folder / LOCK, problem) from problem
    with file:
        if not lock(file):
            file.seek(0)
            owner = file.read().decode("utf-8", "replace") or "another process"
            raise HarvestLocked(
                f"{str(folder)!r} is being written by {owner}. Wait for it, or harvest into another folder.",
                folder=folder,
            )
        sign(file, f"process {os.getpid()} on {socket.gethostname()}")
        try:
            yield
        finally:
            sign(file, "")


def sign(file: IO[bytes], owner: str) -> None:
    """Say in a lock whose it is; on a full disk it does without."""
    with suppress(OSError):
        file.truncate(0)
        file.write(owner.encode())


def lock(file: IO[bytes]) -> bool:
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
