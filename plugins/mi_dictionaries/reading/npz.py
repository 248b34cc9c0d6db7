"""NumPy's ``.npz`` archives: headers first, so that a file that lies about its size is refused before it is unpacked.

Source: numpy.lib.format, "Format Version 1.0 ... 3.0"; a ``.npz`` is a zip archive of ``.npy`` members.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import torch
from torch import Tensor

from mi_core.errors import CorruptCheckpoint

__all__ = ["ALLOWANCE", "RATIO", "read_npz"]

RATIO: Final = 20
"""Times its own size that an archive may unpack to: numbers of trained weights hardly compress at all."""
ALLOWANCE: Final = 64 * 2**20
"""Bytes that any archive may unpack to: small ones may hold zeros only."""
HEADER: Final = 4096
"""Bytes of a member's header that are read; those of arrays without fields take 128."""


def read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays of an archive by name, as tensors in memory.

    Raises:
        CorruptCheckpoint: it is truncated, no archive, holds Python objects, or declares more than it can hold.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            check_sizes(path, members)
            return {member.filename.removesuffix(".npy"): array(path, archive, member) for member in members}
    except CorruptCheckpoint:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise corrupt(path, f"{error}; truncated?") from error
    except Exception as error:  # zlib and lzma have errors of their own
        raise corrupt(path, f"{type(error).__name__}: {error}") from error


def check_sizes(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuse an archive that unpacks to far more than it is."""
    if len({member.filename for member in members}) < len(members):
        raise corrupt(path, "a name occurs twice")
    declared, size = sum(member.file_size for member in members), path.stat().st_size
    if declared > ALLOWANCE + RATIO * size:
        raise corrupt(path, f"its {size} bytes declare {declared} bytes of arrays, far more than weights compress to")


def array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Tensor:
    """One member, once its header and its size agree."""
    if not member.filename.endswith(".npy"):
        raise corrupt(path, f"its member {member.filename!r} is no .npy array")
    with archive.open(member) as file:
        shape, fortran, dtype = header(path, member.filename, file)
        if dtype.hasobject or dtype.kind not in "fiub":
            raise corrupt(path, f"{member.filename!r} holds {dtype!s}: Python objects are not read, numbers are needed")
        needed = math.prod(shape) * dtype.itemsize
        rest = member.file_size - file.tell()
        if needed != rest:
            raise corrupt(path, f"{member.filename!r} {list(shape)} needs {needed} bytes and declares {rest}")
        data = file.read(needed + 1)  # to the end, so that zipfile compares the checksum
    if len(data) != needed:
        raise corrupt(path, f"{member.filename!r} {list(shape)} needs {needed} bytes and holds {len(data)}")
    numbers = np.frombuffer(bytearray(data), dtype=dtype).reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(numbers.astype(dtype.newbyteorder("="), order="C", copy=False))


def header(path: Path, name: str, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and type that a member declares."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise corrupt(path, f"{name!r} is of .npy version {version}; 1.0 and 2.0 hold arrays of numbers")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file, max_header_size=HEADER)
    if any(type(size) is not int or size < 0 for size in shape):
        raise corrupt(path, f"{name!r} declares the shape {shape!r}")
    return shape, fortran, dtype


def corrupt(path: Path, what: str) -> CorruptCheckpoint:
    """The error for an archive that is not read."""
    return CorruptCheckpoint(f"{path}: no valid .npz archive: {what}. Fetch or write it again.", file=path)
