"""What a model remembers of a prefix: one memory for each layer, and how many positions each row has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from mi_core.errors import MemoryMismatch
from mi_core.protocols import Backend, Memory

if TYPE_CHECKING:
    from mi_core.model import Model

__all__ = ["NOTHING", "ModelMemory", "Nothing"]


class Nothing:
    """What a block remembers whose positions do not look back at earlier calls: nothing."""

    def cut(self, length: Tensor) -> Nothing:
        """Nothing."""
        return self

    def rows(self, index: Tensor) -> Nothing:
        """Nothing."""
        return self

    def to(self, device: Any) -> Nothing:
        """Nothing."""
        return self

    def tensors(self) -> Mapping[str, Tensor]:
        """None at all."""
        return {}

    def restored(self, tensors: Mapping[str, Tensor]) -> Nothing:
        """Nothing, from nothing."""
        return self


NOTHING = Nothing()


@dataclass(frozen=True, eq=False)
class ModelMemory:
    """The state of a model after a prefix, to continue from with ``model.run(rest, memory=...)``."""

    layers: Sequence[Memory]
    length: Int[Tensor, "batch"]
    """Positions that each row has seen."""
    model: str
    """The name of the model it came from."""
    backend: Backend = field(repr=False)
    """That model: no other continues from it."""

    def cut(self, length: Int[Tensor, "batch"]) -> ModelMemory:
        """As if row r had seen ``length[r]`` positions.

        Raises:
            MemoryMismatch: longer than what was seen.
        """
        if bool((length > self.length).any()) or bool((length < 0).any()):
            raise MemoryMismatch(
                f"a memory of {self.length.tolist()} positions cannot be cut to {length.tolist()}.",
                length=length.tolist(),
            )
        return replace(self, layers=tuple(layer.cut(length) for layer in self.layers), length=length)

    def rows(self, index: Int[Tensor, "rows"]) -> ModelMemory:
        """Row r becomes row ``index[r]``."""
        return replace(self, layers=tuple(layer.rows(index) for layer in self.layers), length=self.length[index])

    def to(self, device: Any) -> ModelMemory:
        """The same memory on another device."""
        return replace(self, layers=tuple(layer.to(device) for layer in self.layers))

    def tensors(self) -> Mapping[str, Tensor]:
        """Its tensors by name, ``"0.keys"``, ..."""
        return {f"{i}.{name}": t for i, layer in enumerate(self.layers) for name, t in layer.tensors().items()}

    def save(self, path: str | PathLike[str]) -> None:
        """Write it as one safetensors file; ``memory=path`` goes on from it, with the same model."""
        from mi_core.memory_files import save_memory

        save_memory(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str], model: Model) -> ModelMemory:
        """Read what :meth:`save` wrote.

        Raises:
            LoadError: no such file, or no memory in it.
            MemoryMismatch: it belongs to another model; the message says to which, and to which not.
        """
        from mi_core.memory_files import load_memory

        return load_memory(path, model)

    @property
    def bytes(self) -> int:
        """How much memory its tensors take."""
        return sum(t.numel() * t.element_size() for t in self.tensors().values())

    def check(self, backend: Backend, model: str, batch: int) -> None:
        """Refuse to continue another model, another number of rows, or what looks back from later positions."""
        if not backend.shape.causal:
            raise MemoryMismatch(
                f"{model} reads in both directions: no position is done before the last is there, so no run goes on "
                "from another. Run the whole input.",
                model=model,
            )
        if self.backend is not backend:
            raise MemoryMismatch(
                f"this memory ({self.model!r}, {len(self.layers)} layers) is not of this model ({model!r}, "
                f"{backend.shape.n_layers} layers). Run the prefix with the model that goes on from it; a model of the "
                "same weights that was loaded once more takes it as a file: memory.save(path), run(memory=path).",
                model=self.model,
            )
        if len(self.length) != batch:
            raise MemoryMismatch(
                f"this memory has {len(self.length)} rows, the input has {batch}. Select or repeat its rows with "
                "memory.rows(index).",
                rows=len(self.length),
            )

    def __repr__(self) -> str:
        return f"ModelMemory(model={self.model!r}, length={self.length.tolist()}, {self.bytes / 1e6:.1f} MB)"


def remembered(memory: ModelMemory | str | PathLike[str] | None, model: Model, rows: int) -> ModelMemory | None:
    """What a call goes on from: a memory, the file of one, or nothing; checked.

    Raises:
        MemoryMismatch: it belongs to another model or to another number of rows.
        LoadError: no such file, or no memory in it.
    """
    if isinstance(memory, str | PathLike):
        memory = ModelMemory.load(memory, model)
    if memory is not None:
        memory.check(model.backend, model.name, rows)
    return memory


def after_position(length: Int[Tensor, "batch"], start: Int[Tensor, "batch"], pos: int) -> Int[Tensor, "batch"]:
    """How many positions a row has seen after its real token ``pos`` of this call."""
    count = torch.where(torch.tensor(pos < 0), length + pos + 1, torch.tensor(pos + 1))
    if bool((count < 1).any()) or bool((count > length).any()):
        raise MemoryMismatch(f"pos={pos} is not in every row: they have {length.tolist()} tokens.", pos=pos)
    return start + count
