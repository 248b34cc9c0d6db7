"""Weights that come for a call and go behind it: the part of a model that does not fit where it is computed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mi_core.fill import assign
from mi_core.prefetching import Courier, Stop

__all__ = ["Desk", "Offloaded"]


class Desk:
    """Where the weights of units come to; a model has one. The backward pass has them there one unit at a time."""

    def __init__(self, courier: Courier) -> None:
        self.courier = courier
        self.unit: Offloaded | None = None
        self.storages: list[torch.UntypedStorage] = []
        self.latest: weakref.ref[Visit] | None = None
        """The last visit of which a graph holds something, in the forward pass on its way."""
        self.following: Visit | None = None
        """The one that the backward pass comes to next, if it goes through all of them."""

    def expecting(self, stops: Sequence[Stop]) -> AbstractContextManager[Callable[[], None]]:
        """A forward pass begins, that comes to these stops."""
        if self.unit is not None:
            self.closed()  # a backward pass failed
        self.latest = None
        return self.courier.journey(stops)

    def lay(self, visit: Visit) -> None:
        """Have a unit's weights for the backward pass; those of the unit that it comes to next are on their way."""
        self.cleared()
        try:
            self.storages = storages_of(self.courier.take(visit.unit))
        except BaseException:
            self.courier.left(visit.unit)
            raise
        self.unit = visit.unit
        if torch._C._current_graph_task_id() >= 0:
            # torch calls it when the backward pass is over
            torch.autograd.Variable._execution_engine.queue_callback(self.closed)
            following, self.following = self.following, visit.before()
            # a pass that has come from one unit to the one before it goes on so; many are over behind their first
            if following is visit and self.following is not None:
                self.courier.begin(self.following.unit)

    def cleared(self) -> None:
        """Let go what lies there."""
        unit, self.unit, self.storages = self.unit, None, []
        if unit is not None:
            self.courier.left(unit)

    def closed(self) -> None:
        """Let go that, and what was to come next."""
        self.following = None
        self.courier.drop()
        self.cleared()


@dataclass(eq=False)
class Visit:
    """One stay of a unit's weights, of which a graph has saved something."""

    unit: Offloaded
    before: Callable[[], Visit | None]
    """The visit before it in the forward pass, while a graph waits for that too."""


@dataclass(frozen=True)
class Held:
    """A weight in an autograd graph, by what it is made of instead of its numbers."""

    visit: Visit
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
        return sum({id(tensor): tensor.nbytes for tensor in self.empty.values()}.values())

    def kept(self) -> Mapping[str, Tensor]:
        """The weights where they are kept, nothing brought: of a file, pages that nobody looks at are not read."""
        return self._read()

    def read(self) -> Mapping[str, Tensor]:
        """The weights in the host's memory, to be let go by whoever asks for them; tied ones are one tensor."""
        self.brought += 1
        return self._read()

    @contextmanager
    def present(self, *, numbers: bool = True) -> Iterator[None]:
        """Fill the unit meanwhile; without ``numbers``, with weights for a rehearsal."""
        if self._inside:
            yield
            return
        values: dict[str, Tensor] = {}
        self._inside += 1
        try:
            self.desk.cleared()
            values = self.desk.courier.take(self) if numbers else self._stand_ins()
            self._put(values)
            with self._outside_of_graphs(values) if torch.is_grad_enabled() and numbers else nullcontext():
                yield
        finally:
            self._inside -= 1
            self._put(self.empty)
            values.clear()
            self.desk.courier.left(self)

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
        visit = Visit(self, self.desk.latest or (lambda: None))

        def pack(tensor: Tensor) -> Tensor | Held:
            at = index.get(tensor.untyped_storage()._cdata)
            if at is None:
                return tensor
            self.desk.latest = weakref.ref(visit)
            return Held(visit, at, tensor.dtype, tensor.shape, tensor.stride(), int(tensor.storage_offset()))

        return torch.autograd.graph.saved_tensors_hooks(pack, unpacked)


def unpacked(saved: Tensor | Held) -> Tensor:
    """What autograd saved, with the weights of its unit on the desk."""
    if isinstance(saved, Tensor):
        return saved
    desk = saved.visit.unit.desk
    if desk.unit is not saved.visit.unit:
        desk.lay(saved.visit)
    storage = desk.storages[saved.storage]
    made = torch.empty(0, dtype=saved.dtype, device=storage.device)
    return made.set_(storage, saved.offset, saved.size, saved.stride)


def storages_of(values: Mapping[str, Tensor]) -> list[torch.UntypedStorage]:
    """What tensors are views of, each once, in their order: the same each time that they are made."""
    found = {storage._cdata: storage for value in values.values() for storage in (value.untyped_storage(),)}
    return list(found.values())
