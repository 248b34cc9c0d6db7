"""Our own layout: everything that a dictionary is, in ``dictionary.json`` and ``dictionary.safetensors``.

The JSON holds the objects as they are built (class and fields), tensors by name. A matrix that lies transposed in
memory is stored as it lies, so that rows which are near each other there are near each other in the file.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from mi_core.errors import NotSerialisable
from mi_dictionaries.on_disk import OnDisk
from mi_dictionaries.writing.tensor_files import write_tensors

__all__ = ["DESCRIPTION", "TENSORS", "save"]

DESCRIPTION: Final = "dictionary.json"
TENSORS: Final = "dictionary.safetensors"
VERSION: Final = 1


def save(dictionary: Any, folder: str | os.PathLike[str]) -> Path:
    """Write a dictionary, or a set of them, so that `load` gives back the same to the last bit.

    Raises:
        NotSerialisable: it holds something that the layout cannot hold.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    described = {"version": VERSION, "dictionary": plain(dictionary, "", tensors, {})}
    write_tensors(place / TENSORS, tensors)
    (place / DESCRIPTION).write_text(json.dumps(described, indent=1, allow_nan=False), encoding="utf-8")
    return place


def plain(value: Any, name: str, tensors: dict[str, Tensor], seen: dict[Any, dict[str, Any]]) -> Any:
    """A value as JSON can hold it; its tensors go into ``tensors``, the same one once."""
    if isinstance(value, OnDisk):
        value = value.whole()
    if isinstance(value, Tensor):
        return placed(value, name, tensors, seen)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: plain(getattr(value, field.name), f"{name}.{field.name}".strip("."), tensors, seen)
            for field in dataclasses.fields(value)
        }
        return {"$class": type(value).__name__, **fields}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else {"$float": str(value)}
    if isinstance(value, list | tuple):
        return [plain(each, f"{name}.{number}".strip("."), tensors, seen) for number, each in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) and not key.startswith("$") for key in value):
        return {key: plain(each, f"{name}.{key}".strip("."), tensors, seen) for key, each in value.items()}
    raise NotSerialisable(
        f"a dictionary's files hold numbers, text, tensors and our own objects; {name!r} is a {type(value).__name__}.",
        name=name,
    )


def placed(tensor: Tensor, name: str, tensors: dict[str, Tensor], seen: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    """Where a tensor is in the file."""
    key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
    if key not in seen:
        transposed = tensor.ndim == 2 and not tensor.is_contiguous() and tensor.T.is_contiguous()
        tensors[name] = tensor.T if transposed else tensor
        seen[key] = {"$tensor": name, **({"transposed": True} if transposed else {})}
    return seen[key]
