"""The tensors of one dictionary's file: every size is named, bound at its first use, and compared at the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mi_core.config import Config
from mi_core.errors import BadConfig, MissingTensors, TensorMismatch, UnusedConfig, UnusedTensors
from mi_core.files import Files
from mi_core.safetensors_header import TensorInfo, read_header
from mi_core.tensors import TensorIndex
from mi_dictionaries.on_disk import OnDisk
from mi_dictionaries.reading.npz import read_npz
from mi_dictionaries.reading.torch_files import read_torch, tensors_of

__all__ = ["Sizes", "Stored", "read_config", "refuse_unread"]


@dataclass
class Sizes:
    """What each named size is, and who said so first."""

    where: str
    known: dict[str, tuple[int, str]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> int:
        return self.known[name][0]

    def agree(self, name: str, value: int | None, said_by: str) -> None:
        """Bind a size, or compare it with what was said before; None says nothing.

        Raises:
            TensorMismatch: it was another one; the message has both.
        """
        if value is None:
            return
        before = self.known.setdefault(name, (value, said_by))
        if before[0] != value:
            raise TensorMismatch(
                f"{self.where}: {name} is {before[0]} by {before[1]} and {value} by {said_by}. One of the two is of "
                "another dictionary.",
                size=name,
                values=(before[0], value),
                sources=(before[1], said_by),
            )


@dataclass
class Stored:
    """Which tensors does a file hold, and which of them did anybody take?

    ``take("W_enc", "d_in d_sae")`` binds both sizes; the tensor is a view of the file where it is a safetensors file.
    """

    tensors: TensorIndex
    where: str
    sizes: Sizes
    taken: set[str] = field(default_factory=set)

    @classmethod
    def safetensors(cls, files: Files, name: str, sizes: Sizes | None = None) -> Stored:
        """The tensors of a safetensors file: its header now, numbers when they are used."""
        path = files.path(name)
        return cls.of(TensorIndex(read_header(path), {}, f"{files.where}: {name!r}", {}), sizes)

    @classmethod
    def npz(cls, files: Files, name: str) -> Stored:
        """The arrays of an ``.npz`` file, in memory."""
        return cls.of(TensorIndex.of(read_npz(files.path(name)), f"{files.where}: {name!r}"))

    @classmethod
    def torch(cls, files: Files, name: str) -> Stored:
        """The tensors of a ``.pt`` file that holds nothing else."""
        path = files.path(name)
        return cls.of(TensorIndex.of(tensors_of(read_torch(path), path), f"{files.where}: {name!r}"))

    @classmethod
    def of(cls, tensors: TensorIndex | Mapping[str, Tensor], sizes: Sizes | None = None, where: str = "") -> Stored:
        """Tensors that are read already."""
        index = tensors if isinstance(tensors, TensorIndex) else TensorIndex.of(tensors, where)
        return cls(index, index.where, sizes or Sizes(index.where))

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def info(self, name: str) -> TensorInfo:
        """Shape, type and place of a tensor, from the header."""
        return self.tensors[name]

    def take(self, name: str, dims: str) -> Tensor:
        """A tensor whose dims have these names.

        Raises:
            MissingTensors: there is none of that name.
            TensorMismatch: it has another rank, or a size that contradicts an earlier one; the message has both.
        """
        if name not in self.tensors:
            raise MissingTensors(
                f"{self.where}: no tensor {name!r} [{dims}]. It has: {', '.join(self.tensors) or 'none'}.",
                name=name,
                where=self.where,
            )
        shape, names = self.tensors[name].shape, dims.split()
        if len(shape) != len(names):
            raise TensorMismatch(
                f"{self.where}: {name!r} has the shape {list(shape)} and should have the dims [{dims}].",
                name=name,
                shape=shape,
                dims=dims,
            )
        for dim, size in zip(names, shape, strict=True):
            self.sizes.agree(dim, size, f"{name!r} {list(shape)}")
        if not self.tensors[name].dtype.is_floating_point and name not in ("k", "group_sizes"):
            raise TensorMismatch(
                f"{self.where}: {name!r} holds {self.tensors[name].dtype}, weights are floating-point numbers.",
                name=name,
            )
        self.taken.add(name)
        return self.tensors.tensor(name)

    def rows(self, name: str, dims: str) -> Tensor | OnDisk:
        """The same, as rows that stay in their file where that can be: what is decoded with, of a large set."""
        tensor, info = self.take(name, dims), self.tensors[name]
        return tensor if info.file is None else OnDisk.of(tensor, info.file, info.start)

    def maybe(self, name: str, dims: str) -> Tensor | None:
        """The same, or None where there is none of that name."""
        return self.take(name, dims) if name in self.tensors else None

    def number(self, name: str) -> float | None:
        """The one number of a tensor without dims (or with one element), where it is there."""
        if name not in self.tensors:
            return None
        self.taken.add(name)
        value = self.tensors.tensor(name)
        if value.numel() != 1:
            raise TensorMismatch(f"{self.where}: {name!r} must be one number, it is {list(value.shape)}.", name=name)
        return float(value)

    def drop(self, *names: str) -> None:
        """Leave tensors out on purpose."""
        self.taken.update(names)

    def finish(self) -> None:
        """Refuse what nobody took.

        Raises:
            UnusedTensors: the message lists the names and shapes.
        """
        left = {name: list(self.tensors[name].shape) for name in self.tensors if name not in self.taken}
        if left:
            listed = ", ".join(f"{name} {shape}" for name, shape in left.items())
            raise UnusedTensors(
                f"{self.where}: {len(left)} tensors that nothing reads: {listed}. The file is of another architecture "
                "than it says, or of a format that is not known.",
                names=tuple(left),
                where=self.where,
            )


def read_config(files: Files, name: str) -> Config:
    """A JSON config that remembers which of its keys were read."""
    return Config(files.read_json(name), where=f"{files.where}: {name!r}")


def refuse_unread(config: Config, inert: frozenset[str] | set[str], ignore: object = ()) -> None:
    """Refuse config keys that may change the numbers and that nobody read.

    ``inert`` are keys that are known to change nothing; ``ignore`` those that the caller lets go.

    Raises:
        UnusedConfig: the message lists keys and values.
    """
    allowed = {*inert, *(ignore if isinstance(ignore, tuple | list | set | frozenset) else ())}
    left = {
        key: value
        for key, value in config.unread().items()
        if key not in allowed and key.split(".")[0] not in allowed and key.rpartition(".")[2] not in allowed
    }
    if left:
        raise UnusedConfig(
            f"{config.where}: {len(left)} keys that nothing reads and that may change the numbers: "
            f"{', '.join(f'{key} = {value!r}' for key, value in left.items())}. Where they change nothing, pass "
            f"ignore_config={tuple(left)!r}.",
            keys=tuple(left),
            where=config.where,
        )


def contradiction(where: str, what: str, one: tuple[str, object], other: tuple[str, object]) -> BadConfig:
    """The error for two statements that cannot both hold."""
    return BadConfig(
        f"{where}: {what} is {one[1]!r} by {one[0]} and {other[1]!r} by {other[0]}.",
        what=what,
        values=(one[1], other[1]),
    )


def filled(value: float, size: int, like: Tensor) -> Tensor:
    """One number for each feature, without storing it more than once.

    >>> filled(0.5, 3, torch.zeros(1)).tolist()
    [0.5, 0.5, 0.5]
    """
    return torch.tensor(value, dtype=like.dtype).expand(size)
