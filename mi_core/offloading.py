"""Weights that come for a call and go behind it: the part of a model that does not fit where it is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mi_core.fill import assign

__all__ = ["Desk", "Offloaded"]


@dataclass(eq=False)
class Desk:
    """Where the backward pass has the weights of one unit at a time; a model has one."""

    unit: Offloaded | None = None
    storages: list[torch.UntypedStorage] = field(default_factory=list)

    def cleared(self, unit: Offloaded | None = None) -> None:
        """Let go what lies there."""
        self.unit, self.storages = unit, []


@dataclass(frozen=True)
class Held:
    """A weight in an autograd graph, by what it is made of instead of its numbers."""

    storage: int
    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


class Offloaded:
    """The weights of one unit: empty in between, filled inside ``with unit.present()``.

    Where gradients are kept, the graph holds no weight: the backward pass reads each unit once more.
    """

    def __init__(
        self,
        module: nn.Module,
        empty: Mapping[str, Tensor],
        read: Callable[[], Mapping[str, Tensor]],
        device: str,
        desk: Desk,
    ) -> None:
        self.module, self.empty, self.device, self.desk = module, empty, device, desk
        self._read = read
        self._inside = 0
        self.brought = 0
        """How often it was brought in."""

    @property
    def bytes(self) -> int:
        """What is brought in."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.empty.values())

    def values(self) -> dict[str, Tensor]:
        """The weights on their device, to be let go by whoever asks for them; tied ones are one tensor."""
        self.brought += 1
        made: dict[int, Tensor] = {}
        read = self._read()
        return {name: made.setdefault(id(value), value.to(self.device)) for name, value in read.items()}

    @contextmanager
    def present(self, *, numbers: bool = True) -> Iterator[None]:
        """Fill the unit meanwhile; without ``numbers``, with weights for a rehearsal."""
        if self._inside:
            yield
            return
        self.desk.cleared()
        values = self.values() if numbers else self._stand_ins()
        self._inside += 1
        try:
            self._put(values)
            with self._outside_of_graphs(values) if torch.is_grad_enabled() and numbers else nullcontext():
                yield
        finally:
            self._inside -= 1
            self._put(self.empty)

    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            assign(self.module, name, value)

    def _stand_ins(self) -> dict[str, Tensor]:
        from torch.utils._python_dispatch import _disable_current_modes

        from mi_core.rehearsing import stand_ins

        with _disable_current_modes(), stand_ins():
            return {
                name: torch.empty(tensor.shape, dtype=tensor.dtype, device=self.device)
                for name, tensor in self.empty.items()
            }

    def _outside_of_graphs(self, values: Mapping[str, Tensor]) -> AbstractContextManager[object]:
        """What autograd saves of the weights is saved by name."""
        index = {storage._cdata: at for at, storage in enumerate(storages_of(values))}

        def pack(tensor: Tensor) -> Tensor | Held:
            at = index.get(tensor.untyped_storage()._cdata)
            if at is None:
                return tensor
            return Held(at, tensor.dtype, tensor.shape, tensor.stride(), int(tensor.storage_offset()))

        return torch.autograd.graph.saved_tensors_hooks(pack, self._unpacked)

    def _unpacked(self, saved: Tensor | Held) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        if self.desk.unit is not self:
            self.desk.cleared(self)
            self.desk.storages = storages_of(self.values())
        storage = self.desk.storages[saved.storage]
        made = torch.empty(0, dtype=saved.dtype, device=storage.device)
        return made.set_(storage, saved.offset, saved.size, saved.stride)


def storages_of(values: Mapping[str, Tensor]) -> list[torch.UntypedStorage]:
    """What tensors are views of, each once, in their order: the same each time that they are made."""
    found = {storage._cdata: storage for value in values.values() for storage in (value.untyped_storage(),)}
    return list(found.values())
