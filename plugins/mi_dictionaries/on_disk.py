"""Rows that stay in their file until they are asked for."""

from __future__ import annotations

import math
import os
import weakref
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_core.errors import CorruptCheckpoint

__all__ = ["OnDisk", "OpenFile"]


class OpenFile:
    """A file that stays open for as long as somebody reads from it, even where its name is gone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.number)


@dataclass(frozen=True, eq=False)
class OnDisk:
    """A decoder ``[feature writes d]`` in a file, of which only the rows that are asked for are read.

    Through the mapped file alone it would be the same a page at a time, and pages come in clusters: of a file that is
    larger than the memory, much more than the rows would be held.

    Raises:
        CorruptCheckpoint: the file ends before a row does.
    """

    mapped: Float[Tensor, "feature ..."]
    """All of it, as a view of the mapped file; each row lies in one piece."""
    file: OpenFile
    start: int
    """The byte at which the first row begins."""

    @classmethod
    def of(cls, mapped: Float[Tensor, "feature ..."], path: Path, start: int) -> OnDisk:
        """A tensor as it lies in a file, from a byte on."""
        return cls(mapped, OpenFile(path), start)

    @property
    def shape(self) -> torch.Size:
        """As a tensor would say it."""
        return self.mapped.shape

    @property
    def dtype(self) -> torch.dtype:
        """As it is stored."""
        return self.mapped.dtype

    @property
    def device(self) -> torch.device:
        """Where rows arrive."""
        return self.mapped.device

    def behind(self, first: int) -> OnDisk:
        """``[:, first:]``."""
        return replace(self, mapped=self.mapped[:, first:], start=self.start + first * self._write)

    def write(self, number: int) -> OnDisk:
        """``[:, number]``."""
        return replace(self, mapped=self.mapped[:, number], start=self.start + number * self._write)

    @property
    def _write(self) -> int:
        return self.mapped.stride(1) * self.dtype.itemsize

    def __getitem__(self, indices: Int[Tensor, "n"]) -> Float[Tensor, "n ..."]:
        """Some rows."""
        wanted = indices.tolist()
        rows = torch.empty(len(wanted), *self.shape[1:], dtype=self.dtype)
        width = math.prod(self.shape[1:]) * self.dtype.itemsize
        if not wanted or not width:
            return rows
        into = rows.reshape(len(wanted), -1).view(torch.uint8).numpy()
        step, n = self.mapped.stride(0) * self.dtype.itemsize, self.shape[0]
        for place, index in enumerate(wanted):
            # a negative index counts from the end, as a tensor's does
            if os.preadv(self.file.number, [into[place].data], self.start + index % n * step) != width:
                raise CorruptCheckpoint(
                    f"{self.file.path}: it ends before row {index} does; truncated after it was opened?",
                    file=self.file.path,
                )
        return rows

    def whole(self) -> Float[Tensor, "feature ..."]:
        """All rows, as a view of the mapped file."""
        return self.mapped
