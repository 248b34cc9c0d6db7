"""Equality of data that holds tensors: structure and bytes; functions, modules and runs by identity."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor

__all__ = ["fingerprint", "tensors_in", "version_of"]


def fingerprint(value: Any) -> Hashable:
    """A hashable that is equal for equal structure and equal tensor bytes.

    >>> import torch
    >>> fingerprint({"a": torch.ones(2)}) == fingerprint({"a": torch.ones(2)})
    True
    """
    if isinstance(value, Tensor):
        raw = value.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return ("tensor", str(value.dtype), tuple(value.shape), hashlib.sha256(raw).hexdigest())
    if isinstance(value, slice):
        return ("slice", value.start, value.stop, value.step)
    if is_plain_mapping(value):
        return ("mapping", tuple(sorted((str(key), fingerprint(item)) for key, item in value.items())))
    if isinstance(value, tuple | list):
        return (type(value).__name__, tuple(fingerprint(item) for item in value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = tuple((field.name, fingerprint(getattr(value, field.name))) for field in dataclasses.fields(value))
        return (type(value).__name__, parts)
    if isinstance(value, float):
        # by its bits: NaN equals itself, and zeros have signs
        return ("float", value.hex())
    if value is None or isinstance(value, str | int | bool):
        return (type(value).__name__, value)
    return (type(value).__name__, id(value))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors that a piece of data holds itself; runs answer for their own."""
    if isinstance(value, Tensor):
        yield value
    elif is_plain_mapping(value):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name))


def is_plain_mapping(value: Any) -> TypeGuard[Mapping[Any, Any]]:
    """Whether a value is a mapping of data; a run is a mapping too, and answers for its own."""
    return isinstance(value, Mapping) and not hasattr(type(value), "values_at")


def version_of(tensor: Tensor) -> int:
    """How often a tensor was changed in place; tensors of inference mode do not count."""
    return -1 if tensor.is_inference() else tensor._version
