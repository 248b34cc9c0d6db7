"""Tensors into safetensors files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

__all__ = ["write_tensors"]


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name, whole or not at all: an interrupted write leaves no file of that name."""
    from safetensors.torch import save_file

    part = path.with_name(path.name + ".part")
    # views of mapped files and of each other share memory, which the format does not know
    save_file({name: tensor.detach().contiguous().cpu().clone() for name, tensor in tensors.items()}, part)
    part.replace(path)
