"""The header of a safetensors file, read without trusting it.

Source: https://github.com/huggingface/safetensors, "Format": 8 bytes of little-endian length, a JSON object of that
length, then the numbers, back to back and without gaps to the end of the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from mi_core.errors import CorruptCheckpoint

__all__ = ["TensorInfo", "read_header"]

DTYPES: Final[Mapping[str, torch.dtype]] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}

LONGEST: Final = 100_000_000
"""Bytes of header that are accepted; safetensors' own limit."""


@dataclass(frozen=True)
class TensorInfo:
    """What a header says about one tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path | None
    """None for a tensor that is in memory."""
    start: int = 0
    """Byte of the file at which its numbers begin."""

    @property
    def bytes(self) -> int:
        """How many bytes its numbers take."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a file by name, in the order of their bytes.

    Raises:
        CorruptCheckpoint: the file is truncated, overlong, or contradicts itself.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > min(size - 8, LONGEST):
                raise corrupt(path, f"it has {size} bytes and says that its header alone takes {length}; truncated?")
            text = file.read(length)
    except OSError as error:
        raise corrupt(path, f"it cannot be read: {error}") from error
    try:
        header = json.loads(text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise corrupt(path, f"its header is no valid JSON: {error}") from error
    if not isinstance(header, dict):
        raise corrupt(path, f"its header is a {type(header).__name__}, not an object")
    header.pop("__metadata__", None)
    infos = {name: entry(path, name, what, 8 + length) for name, what in header.items()}
    return contiguous(path, infos, 8 + length, size)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names are all different."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice")
    return found


def entry(path: Path, name: str, what: Any, base: int) -> TensorInfo:
    """One tensor's entry, checked on its own."""
    if not isinstance(what, dict) or what.keys() != {"dtype", "shape", "data_offsets"}:
        raise corrupt(path, f"the entry {name!r} is {what!r:.80}, not a dtype, a shape and data_offsets")
    dtype = DTYPES.get(what["dtype"]) if isinstance(what["dtype"], str) else None
    if dtype is None:
        raise corrupt(path, f"{name!r} has dtype {what['dtype']!r:.40}; known: {', '.join(DTYPES)}")
    shape, offsets = what["shape"], what["data_offsets"]
    if not counts(shape) or not counts(offsets) or len(offsets) != 2:
        raise corrupt(path, f"{name!r} has shape {shape!r:.60} and data_offsets {offsets!r:.60}; sizes are needed")
    info = TensorInfo(tuple(shape), dtype, path, base + offsets[0])
    if offsets[1] - offsets[0] != info.bytes:
        raise corrupt(
            path, f"{name!r}, {what['dtype']} {shape}, needs {info.bytes} bytes and has {offsets[1] - offsets[0]}"
        )
    return info


def counts(values: Any) -> bool:
    """Whether these are whole numbers that a file can hold."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def contiguous(path: Path, infos: Mapping[str, TensorInfo], base: int, size: int) -> dict[str, TensorInfo]:
    """The tensors in the order of their bytes, once they fill the file without gaps or overlaps."""
    ordered = dict(sorted(infos.items(), key=lambda item: (item[1].start, item[1].bytes)))
    end = base
    for name, info in ordered.items():
        if info.start != end:
            what = "overlaps the tensor before it" if info.start < end else "leaves a gap before it"
            raise corrupt(path, f"{name!r} {what}: it begins at byte {info.start}, the one before ends at {end}")
        end += info.bytes
    if end != size:
        raise corrupt(path, f"its tensors end at byte {end} and the file at {size}; truncated, or two files in one")
    return ordered


def corrupt(path: Path, what: str) -> CorruptCheckpoint:
    """The error for a file that is not what it claims to be."""
    return CorruptCheckpoint(f"{path}: no valid safetensors file: {what}. Fetch or write it again.", file=path)
