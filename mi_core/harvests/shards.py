"""One shard of a harvest: a safetensors file with the activations, and which token of which document each row is.

Beside the points it holds the windows that the model read, one behind the other (``window.tokens``, ``.offsets``,
``.document``, ``.first``), and for each row its window and position (``row.window``, ``row.position``). A file has its
name only once it is complete, so that a kill leaves whole shards.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Int
from torch import Tensor

from mi_core.errors import CorruptCheckpoint, CorruptShard
from mi_core.harvests.atomic import committed
from mi_core.harvests.windows import Cursor, Window
from mi_core.safetensors_header import read_header
from mi_core.tensors import TensorIndex

__all__ = ["Shard", "ShardWindows", "shard_name", "write_shard"]

FORMAT: Final = "mi-core harvest shard 1"
OWN: Final = ("row.", "window.")
"""What names of tensors that are no points begin with."""


def shard_name(number: int) -> str:
    """What the file of a shard is called."""
    return f"shard-{number:06d}.safetensors"


@dataclass(frozen=True, eq=False)
class ShardWindows:
    """The windows of a shard, as tensors."""

    tokens: Int[Tensor, "token"]
    offsets: Int[Tensor, "window_and_end"]
    document: Int[Tensor, "window"]
    first: Int[Tensor, "window"]

    @classmethod
    def of(cls, windows: Sequence[Window]) -> ShardWindows:
        """Of windows in order."""
        ends = torch.tensor([0, *(len(window.ids) for window in windows)]).cumsum(0)
        return cls(
            torch.tensor([token for window in windows for token in window.ids], dtype=torch.int32),
            ends,
            torch.tensor([window.document for window in windows]),
            torch.tensor([window.first for window in windows]),
        )


@dataclass(frozen=True, eq=False)
class Shard:
    """A shard that is there. Its tensors are views of the file's pages: what is not used is not read."""

    path: Path
    number: int
    harvest: str
    """The fingerprint of the settings that it was made with."""
    end: Cursor
    rows: int
    checksums: Mapping[str, int]
    tensors: TensorIndex

    @classmethod
    def open(cls, path: Path) -> Shard:
        """The shard in a file.

        Raises:
            CorruptShard: there is none, or it is truncated, or no shard.
        """
        from safetensors import SafetensorError, safe_open

        try:
            tensors = TensorIndex(read_header(path), {}, str(path), {})
            with safe_open(path, framework="pt") as file:
                said = json.loads((file.metadata() or {}).get("mi_core", "{}"))
            if said["format"] != FORMAT:
                raise ValueError(f"its format is {said['format']!r}")
            end, sums = Cursor(**said["end"]), said["checksums"]
            return cls(path, said["number"], said["harvest"], end, said["rows"], sums, tensors)
        except (CorruptCheckpoint, SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise CorruptShard(
                f"the shard {str(path)!r} cannot be read: {error} Read the rest with Harvest.sound(), or harvest "
                "again in the same way, which makes it anew.",
                path=path,
            ) from error

    @property
    def points(self) -> list[str]:
        """The points that it has, sorted by name."""
        return sorted(name for name in self.tensors if not name.startswith(OWN))

    def __getitem__(self, point: str) -> Tensor:
        """The rows of a point ``[row ...]``."""
        return self.tensors.tensor(point)

    @cached_property
    def windows(self) -> ShardWindows:
        """The windows that the model read."""
        return ShardWindows(*(self[f"window.{part}"] for part in ("tokens", "offsets", "document", "first")))

    @property
    def positions(self) -> Int[Tensor, "row"]:
        """Of each row, its position in its window."""
        return self["row.position"].long()

    @property
    def places(self) -> Int[Tensor, "row"]:
        """Of each row, its place among the tokens of its document."""
        return self.windows.first[self["row.window"]] + self.positions

    @property
    def documents(self) -> Int[Tensor, "row"]:
        """Of each row, the number of its document."""
        return self.windows.document[self["row.window"]]

    @property
    def ids(self) -> Int[Tensor, "row"]:
        """Of each row, its token."""
        return self.windows.tokens[self.windows.offsets[self["row.window"]] + self.positions].long()

    def window_of(self, row: int) -> tuple[Int[Tensor, "pos"], int]:
        """The tokens of a row's window, and the row's position among them."""
        window = int(self["row.window"][row])
        start, stop = self.windows.offsets[window : window + 2].tolist()
        return self.windows.tokens[start:stop].long(), int(self["row.position"][row])

    def verify(self) -> None:
        """Read every byte.

        Raises:
            CorruptShard: a tensor is not as it was written; it is named.
        """
        for name, written in self.checksums.items():
            if checksum(self.tensors.tensor(name)) != written:
                raise CorruptShard(
                    f"{name!r} in the shard {str(self.path)!r} is not as it was written: its checksum differs.",
                    path=self.path,
                    name=name,
                )


def checksum(tensor: Tensor) -> int:
    """The CRC-32 of a tensor's bytes."""
    raw: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return zlib.crc32(raw)


def write_shard(folder: Path, number: int, harvest: str, end: Cursor, tensors: Mapping[str, Tensor]) -> None:
    """Write a shard as a whole or not at all.

    Raises:
        HarvestError: the disk is full, or cannot be written; what was there is as it was.
    """
    from safetensors.torch import save_file

    said: dict[str, Any] = {"format": FORMAT, "number": number, "harvest": harvest, "end": vars(end)}
    said |= {"rows": len(tensors["row.window"]), "checksums": {name: checksum(tensors[name]) for name in tensors}}
    metadata = {"mi_core": json.dumps(said)}
    with committed(folder / shard_name(number)) as part:
        save_file(dict(tensors), part, metadata=metadata)
