"""What a model remembers of a prefix, on disk: one safetensors file, with the model that it belongs to."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from mi_core.errors import LoadError, MemoryMismatch
from mi_core.layout import Layout
from mi_core.loop import Taps, forward
from mi_core.memory import ModelMemory
from mi_core.protocols import Memory
from mi_core.weight_samples import fingerprint_of

if TYPE_CHECKING:
    from mi_core.model import Model

__all__ = ["Restorable", "load_memory", "restored", "save_memory"]

FORMAT = "mi-core memory 1"


@runtime_checkable
class Restorable(Memory, Protocol):
    """A block's memory that can be made anew from its tensors."""

    def restored(self, tensors: Mapping[str, Tensor]) -> Memory:
        """The same kind of memory with other tensors, those that ``tensors()`` once gave.

        Raises:
            MemoryMismatch: tensors of other names or shapes; the message gives both.
        """
        ...


def save_memory(memory: ModelMemory, path: str | os.PathLike[str]) -> None:
    """Write a memory, and the fingerprint of the model that it belongs to."""
    from safetensors.torch import save_file

    said = {"format": FORMAT, "model": memory.model, "layers": len(memory.layers)}
    said["fingerprint"] = fingerprint_of(memory.backend)
    tensors = {"length": memory.length, **memory.tensors()}
    save_file(
        # clones: rows of a memory may be views of one tensor, which the format refuses
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
        Path(path),
        metadata={"mi_core": json.dumps(said)},
    )


def load_memory(path: str | os.PathLike[str], model: Model) -> ModelMemory:
    """Read what :func:`save_memory` wrote, to go on from it with the same model.

    Raises:
        LoadError: no such file, or no memory in it.
        MemoryMismatch: it belongs to another kind of model, to one of other sizes or to other weights; the message
            says what was seen and what is wanted.
    """
    said, tensors = read(Path(path))
    layers = model.shape.n_layers
    where = f"the memory in {os.fspath(path)!r}"
    if (said["model"], said["layers"]) != (model.name, layers):
        raise MemoryMismatch(
            f"{where} is of a {said['model']!r} of {said['layers']} layers; this model is a {model.name!r} of "
            f"{layers} layers.",
            path=path,
        )
    blank = one_token(model)
    made = []
    for layer, kind in enumerate(blank):
        own = {name.removeprefix(f"{layer}."): t for name, t in tensors.items() if name.startswith(f"{layer}.")}
        try:
            made.append(restored(kind, {name: tensor.to(model.device) for name, tensor in own.items()}))
        except MemoryMismatch as error:
            raise MemoryMismatch(f"{where} does not fit layer {layer} of {model.name!r}: {error}", path=path) from error
    if said["fingerprint"] != fingerprint_of(model.backend):
        raise MemoryMismatch(
            f"{where} has the shapes of this model ({model.provenance.ref!r} in {str(model.dtype)[6:]}), and belongs "
            "to other weights or another dtype. Run the prefix with the model that goes on from it.",
            path=path,
        )
    return ModelMemory(tuple(made), tensors["length"], model.name, model.backend)


def restored(kind: Memory, tensors: Mapping[str, Tensor]) -> Memory:
    """The same kind of memory with other tensors.

    Raises:
        MemoryMismatch: it cannot be made from tensors, or not from these.
    """
    if not isinstance(kind, Restorable):
        raise MemoryMismatch(f"a {type(kind).__name__} cannot be read: it has no restored(tensors)", memory=kind)
    return kind.restored(tensors)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a file says of itself, and its tensors."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads((file.metadata() or {}).get("mi_core", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise LoadError(f"{str(path)!r} is no saved memory: {error}", path=path) from None
    if said.get("format") != FORMAT:
        raise LoadError(
            f"{str(path)!r} is no saved memory: its format is {said.get('format')!r}, not {FORMAT!r}.", path=path
        )
    return said, tensors


@torch.no_grad()
def one_token(model: Model) -> tuple[Memory, ...]:
    """What each layer remembers of one token: the kind of its memory, and the sizes."""
    zero, one = torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.long)
    layout = Layout(zero[None], one, zero[None], zero, None)
    return forward(model.backend, layout.batch(model.device, "end"), Taps({}), logits="last").memory
