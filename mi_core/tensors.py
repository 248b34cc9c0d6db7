"""The tensors of a checkpoint: names, shapes and types from the headers alone, numbers mapped from disk when wanted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, cast

import torch
from torch import Tensor

from mi_core.errors import BadConfig, CorruptCheckpoint, ModelNotFound
from mi_core.files import Files
from mi_core.safetensors_header import TensorInfo, read_header

__all__ = ["PICKLES", "WEIGHTS", "TensorIndex", "TensorInfo"]

SINGLE: Final = "model.safetensors"
SHARDED: Final = "model.safetensors.index.json"
PICKLE: Final = "pytorch_model.bin"
PICKLE_SHARDED: Final = "pytorch_model.bin.index.json"
PICKLES: Final = (".bin", ".pt", ".pth")
WEIGHTS: Final = (".safetensors", *PICKLES)
HELD: Final = 1 << 24
"""Bytes of a mapped file that may stay in memory behind their copies."""


@dataclass(frozen=True)
class TensorIndex(Mapping[str, TensorInfo]):
    """Which tensors does a checkpoint have, of which shape and type?

    Reading it costs the headers only. ``tensor(name)`` is a view of the file's pages: nothing is copied, and what is
    never used is never read from disk. Editing such a tensor does not change the file.

    >>> index = TensorIndex.of({"weight": torch.zeros(2, 3)})
    >>> index["weight"].shape, index.tensor("weight").dtype
    ((2, 3), torch.float32)
    """

    infos: Mapping[str, TensorInfo]
    memory: Mapping[str, Tensor]
    """Tensors that are in memory already (pickle files)."""
    where: str
    maps: dict[Path, torch.UntypedStorage]
    """One mapping for each file, made at its first use."""
    copied: list[int] = field(default_factory=lambda: [0], repr=False, compare=False)
    """Bytes that were read of these mappings and are held elsewhere now."""
    stamps: dict[Path, tuple[int, int, int]] = field(default_factory=dict, repr=False, compare=False)
    """Size, time of the last change and inode of each file when it was mapped first."""

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], where: str = "memory") -> TensorIndex:
        """An index over tensors in memory."""
        infos = {name: TensorInfo(tuple(tensor.shape), tensor.dtype, None) for name, tensor in tensors.items()}
        return cls(infos, dict(tensors), where, {})

    @classmethod
    def read(cls, files: Files, *, allow_pickle: bool = False) -> TensorIndex:
        """The index of a checkpoint folder: one safetensors file, or the shards that an index file lists.

        Raises:
            ModelNotFound: no weights, or a shard is missing.
            CorruptCheckpoint: a file that is truncated or not what it claims to be, or lies outside the folder.
        """
        if files.has(SINGLE):
            return cls._of_headers(files, {SINGLE: read_header(files.path(SINGLE))})
        if files.has(SHARDED):
            return cls._sharded(files)
        pickles = [name for name in files.names() if name.endswith(PICKLES)]
        if allow_pickle and (files.has(PICKLE) or files.has(PICKLE_SHARDED)):
            shards = [PICKLE] if files.has(PICKLE) else sorted(set(weight_map(files, PICKLE_SHARDED).values()))
            return cls._pickled(files, shards)
        if allow_pickle and len(pickles) == 1:
            return cls._pickled(files, pickles)
        if allow_pickle and pickles:
            raise ModelNotFound(
                f"{files.where}: several pickle files ({', '.join(pickles)}), none of them called {PICKLE!r}. Give the "
                "path of the one that is meant.",
                where=files.where,
                files=tuple(pickles),
            )
        if pickles and not allow_pickle:
            raise ModelNotFound(
                f"{files.where}: the weights are pickle files ({', '.join(pickles)}), which can run code when they are "
                "read; convert them to safetensors, or pass allow_pickle=True to read them with weights_only.",
                where=files.where,
                files=tuple(pickles),
            )
        raise ModelNotFound(
            f"{files.where}: no weights; looked for {SINGLE!r} and {SHARDED!r}. "
            f"It has: {', '.join(files.names()) or 'nothing'}.",
            where=files.where,
        )

    @classmethod
    def _sharded(cls, files: Files) -> TensorIndex:
        shards = weight_map(files, SHARDED)
        index = cls._of_headers(files, {name: read_header(files.path(name)) for name in sorted(set(shards.values()))})
        for name, shard in shards.items():
            if name not in index.infos or index.infos[name].file != files.path(shard):
                raise CorruptCheckpoint(
                    f"{files.where}: {SHARDED!r} says that {shard!r} holds {name!r}, which it does not.",
                    where=files.where,
                    name=name,
                    file=shard,
                )
        return index

    @classmethod
    def _of_headers(cls, files: Files, headers: Mapping[str, Mapping[str, TensorInfo]]) -> TensorIndex:
        infos: dict[str, TensorInfo] = {}
        for file, header in headers.items():
            if twice := infos.keys() & header.keys():
                name = min(twice)
                raise CorruptCheckpoint(
                    f"{files.where}: the tensor {name!r} is in {file!r} and in another shard; one must go.",
                    where=files.where,
                    name=name,
                    file=file,
                )
            infos |= header
        return cls(infos, {}, files.where, {})

    @classmethod
    def _pickled(cls, files: Files, shards: Sequence[str]) -> TensorIndex:
        tensors: dict[str, Tensor] = {}
        for shard in shards:
            tensors |= unpickled(files, shard)
        return cls.of(tensors, files.where)

    def __getitem__(self, name: str) -> TensorInfo:
        return self.infos[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)

    def __repr__(self) -> str:
        return f"TensorIndex({len(self)} tensors of {self.where})"

    @property
    def bytes(self) -> int:
        """What all of them take where they are stored."""
        return sum(info.bytes for info in self.infos.values())

    def tensor(self, name: str) -> Tensor:
        """The tensor itself, a view of the file's pages in the checkpoint's own type.

        Raises:
            CorruptCheckpoint: its file is gone, or is not the one that it was.
        """
        if name in self.memory:
            return self.memory[name]
        info = self.infos[name]
        if info.file is None or info.bytes == 0:
            return torch.empty(info.shape, dtype=info.dtype)
        if info.file not in self.maps:
            self.maps[info.file] = self._mapped(info.file, info.start + info.bytes)
        # A private mapping: pages are shared with the page cache until somebody writes to one.
        raw = torch.empty(0, dtype=torch.uint8).set_(self.maps[info.file], info.start, (info.bytes,))  # type: ignore[call-overload]
        if info.start % info.dtype.itemsize:
            raw = raw.clone()  # files of old writers: their data begins at any byte, and kernels need aligned numbers
        typed: Tensor = raw.view(info.dtype).view(info.shape)
        return typed

    def _mapped(self, path: Path, needed: int) -> torch.UntypedStorage:
        """A file as copy-on-write memory, if it is still what was mapped first."""
        try:
            now = path.stat()
            stamp = (now.st_size, now.st_mtime_ns, now.st_ino)
            if self.stamps.setdefault(path, stamp) != stamp or now.st_size < needed:
                raise CorruptCheckpoint(
                    f"{path} was changed since it was opened ({now.st_size:,} bytes now), and weights of two files "
                    "would be mixed. Load the model again; files of a checkpoint are read as long as it is used.",
                    file=path,
                )
            storage = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=now.st_size)
        except FileNotFoundError as error:
            raise CorruptCheckpoint(
                f"{path} is gone, and some weights are read from it each time that they are needed. Put it back, or "
                "load the model again.",
                file=path,
            ) from error
        except (OSError, RuntimeError) as error:
            raise CorruptCheckpoint(f"{path}: cannot be mapped into memory: {error}.", file=path) from error
        return cast(torch.UntypedStorage, storage)

    def let_go(self, count: int) -> None:
        """Say that so many bytes were copied; every now and then the mapped pages that nobody needs are given back.

        Tensors that are views of the file keep their pages.
        """
        self.copied[0] += count
        if self.copied[0] > HELD:
            self.maps.clear()
            self.copied[0] = 0

    def anew(self) -> TensorIndex:
        """The same index with mappings of its own, whose pages go when the last of its tensors does."""
        return replace(self, maps={}, copied=[0])


def weight_map(files: Files, name: str) -> dict[str, str]:
    """Tensor -> shard, from an index file."""
    found = files.read_json(name).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(shard, str) for shard in found.values()):
        raise BadConfig(
            f"{files.where}: {name!r} must hold a 'weight_map' from tensor names to file names.",
            where=files.where,
            name=name,
        )
    return found


def unpickled(files: Files, name: str) -> dict[str, Tensor]:
    """The tensors of a pickle file, read without running code from it."""
    path = files.path(name)
    try:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files from before torch 1.6 are no archives and cannot be mapped
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle fails in any way it likes
        first = str(error).partition("\n")[0]
        raise CorruptCheckpoint(
            f"{files.where}: {name!r} cannot be read with weights_only: {type(error).__name__}: {first}",
            where=files.where,
            file=name,
        ) from error
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise CorruptCheckpoint(
            f"{files.where}: {name!r} must hold a mapping from names to tensors, nothing else.",
            where=files.where,
            file=name,
        )
    return {str(key): tensor for key, tensor in found.items()}
