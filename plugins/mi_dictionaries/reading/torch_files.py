"""PyTorch's ``.pt`` and ``.pth`` files, and pickles of tensors: nothing that they say is called or imported.

PyTorch's own restricted reader (``weights_only``) makes tensors and plain containers, and refuses every other object.
The configs of some old files are objects of a training library: those become inert records.
"""

from __future__ import annotations

import gzip
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from mi_core.errors import CorruptCheckpoint

__all__ = ["Record", "read_gzipped_pickle", "read_torch", "tensors_of"]

RATIO: Final = 20
"""Times its own size that a gzipped pickle may unpack to."""
ALLOWANCE: Final = 64 * 2**20
"""Bytes that any of them may unpack to."""


class Record:
    """What stands for an object of another library: its attributes, and nothing that it could do."""

    def __new__(cls, *_: object, **__: object) -> Record:
        """Whatever the file passes to a constructor is ignored."""
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        """Keep the attributes that the file states."""
        if isinstance(state, Mapping):
            self.__dict__.update({str(key): value for key, value in state.items()})


def read_torch(path: Path, records: tuple[str, ...] = ()) -> Any:
    """What a file of ``torch.save`` holds, read with ``weights_only``.

    Classes named in ``records`` (``"package.module.Class"``) become a `Record` each.

    Raises:
        CorruptCheckpoint: it is truncated, or holds objects that reading it would have to make.
    """
    stand_ins: list[Any] = [(type("Record", (Record,), {}), name) for name in records]
    try:
        with torch.serialization.safe_globals(stand_ins):
            try:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # files from before torch 1.6 are no archives and cannot be mapped
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise refused(path, str(error)) from error
    except Exception as error:  # a damaged file fails in any way it likes
        first = str(error).partition("\n")[0]
        raise CorruptCheckpoint(
            f"{path}: no valid PyTorch file: {type(error).__name__}: {first:.200}. Fetch or write it again.", file=path
        ) from error


def refused(path: Path, said: str) -> CorruptCheckpoint:
    """The error for a file whose objects are not made."""
    lines = [line for line in said.splitlines() if "GLOBAL" in line or "global" in line] or said.splitlines()[:1]
    what = " ".join(" ".join(lines).split())
    return CorruptCheckpoint(
        f"{path}: it is read with weights_only, which makes tensors and plain containers and runs nothing, and it asks "
        f"for more: {what:.240} Ask for a file that holds tensors only, or convert it where it is trusted.",
        file=path,
    )


def tensors_of(value: Any, path: Path) -> dict[str, Tensor]:
    """The tensors by name of a file that should hold nothing else.

    Raises:
        CorruptCheckpoint: it holds something else.
    """
    if isinstance(value, Mapping) and value and all(isinstance(tensor, Tensor) for tensor in value.values()):
        return {str(name): tensor.detach() for name, tensor in value.items()}
    odd = type(value).__name__
    if isinstance(value, Mapping):
        others = {str(key): type(entry).__name__ for key, entry in value.items() if not isinstance(entry, Tensor)}
        odd = f"mapping with {others}" if others else "mapping without entries"
    raise CorruptCheckpoint(f"{path}: it must hold tensors by name and nothing else, it holds a {odd:.200}.", file=path)


def read_gzipped_pickle(path: Path, records: tuple[str, ...] = ()) -> Any:
    """What a gzipped pickle of plain containers and tensors holds.

    Raises:
        CorruptCheckpoint: it is truncated, unpacks to far more than it is, or names anything but tensors, plain
            containers and the classes in ``records``.
    """
    limit = ALLOWANCE + RATIO * path.stat().st_size
    try:
        with gzip.open(path) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise CorruptCheckpoint(
                f"{path}: it has {path.stat().st_size} bytes and unpacks to more than {limit}, far more than weights "
                "compress to; it is not read.",
                file=path,
            )
        return Restricted(io.BytesIO(data), records).load()
    except CorruptCheckpoint:
        raise
    except pickle.UnpicklingError as error:
        raise refused(path, str(error)) from error
    except Exception as error:  # a damaged pickle fails in any way it likes
        raise CorruptCheckpoint(
            f"{path}: no valid gzipped pickle: {type(error).__name__}: {error!s:.200}. Fetch or write it again.",
            file=path,
        ) from error


def storage_from(data: bytes) -> Any:
    """A tensor's storage, which pickles hold as a torch file inside; never `torch.load` as the pickle asks."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


ALLOWED: Final[Mapping[tuple[str, str], Callable[..., Any]]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("torch.storage", "_load_from_bytes"): storage_from,
    ("torch", "device"): torch.device,
}
"""All that a pickle may name."""


class Restricted(pickle.Unpickler):
    """Makes what `ALLOWED` lists and inert records, and refuses every other name."""

    def __init__(self, file: io.BytesIO, records: tuple[str, ...]) -> None:
        super().__init__(file)
        self.records = records

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle means here."""
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        if f"{module}.{name}" in self.records:
            return type("Record", (Record,), {})
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is none that it may make.")
