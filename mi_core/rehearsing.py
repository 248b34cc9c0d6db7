"""Running a model on tensors without numbers: the same code, the same shapes, no arithmetic.

Token ids go in without numbers, so that everything that is made of them has none; what a backend computes from lengths
and positions (masks, rotary tables) is real, so it may decide by it. This is how a plan knows what it costs, for any
backend, without knowing its arithmetic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from mi_core.binding import bind
from mi_core.interventions import Apply
from mi_core.metering import Cost, Meter
from mi_core.protocols import Backend, Batch, Block, Memory, ModelShape, Site, Stream, Tap
from mi_core.spec import Edit, HookSpec

if TYPE_CHECKING:
    from mi_core.plans import Plan
    from mi_core.run import Run

__all__ = ["Kept", "Rehearsal", "Rehearsed", "WithoutNumbers", "rehearse", "without_functions"]


@cache
def stand_ins() -> FakeTensorMode:
    """What makes tensors without numbers: one for all, because those of several do not mix."""
    return FakeTensorMode(allow_non_fake_inputs=True)


@dataclass(frozen=True)
class Kept:
    """One captured activation, as it will be kept."""

    shape: tuple[int, ...]
    dtype: str
    device: str
    bytes: int

    @classmethod
    def of(cls, value: Tensor) -> Kept:
        """From its stand-in."""
        dtype = str(value.dtype).removeprefix("torch.")
        return cls(tuple(value.shape), dtype, str(value.device), value.numel() * value.element_size())


@dataclass(frozen=True, eq=False)
class Rehearsed:
    """What a rehearsal found out."""

    cost: Cost | None
    """None where the backend decides by numbers, which a rehearsal has none of."""
    unknown: str = ""
    """Why there is no cost."""
    fused: frozenset[int] = frozenset()
    """The layers in which one of PyTorch's fused attention kernels ran."""
    after: Mapping[str, Kept] = field(default_factory=dict)
    before: Mapping[str, Kept] = field(default_factory=dict)
    """Captures before interventions."""
    run: Run | None = None
    """The run, without numbers."""


def rehearse(plan: Plan) -> Rehearsed:
    """Carry out a plan without numbers."""
    model = plan.model
    with Rehearsal() as meter:
        try:
            binding = bind(without_functions(plan.binding.spec), model.points, plan.layout, plan.prompts.rows)
            called = dataclasses.replace(plan, binding=binding).called(WithoutNumbers(model.backend, meter))
        except Exception as error:  # whatever a backend raises that misses its numbers
            return Rehearsed(None, f"{type(error).__name__}: {error}")
    after, before = (
        {name: Kept.of(value) for name, value in kept.items()} for kept in (called.record.after, called.record.before)
    )
    return Rehearsed(meter.cost(), "", frozenset(meter.fused), after, before, plan.finished(called, 0.0))


class Rehearsal(Meter):  # type: ignore[no-untyped-call]  # torch does not annotate its mode
    """A meter under which tensors without numbers behave as real ones wherever no number is needed.

    Questions about them (``bool(x.any())``) are answered with no, as by numbers that nothing is wrong with.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layer = -1
        self.fused: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """One operator."""
        aten = torch.ops.aten
        if func is aten._local_scalar_dense.default and args[0].dtype == torch.bool and isinstance(args[0], FakeTensor):
            return False
        if func is aten.equal.default and any(isinstance(tensor, FakeTensor) for tensor in args):
            return False
        if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
            args = (args[0], counted(args[1]), *args[2:])
        if func.name().startswith("aten::_scaled_dot_product"):
            self.fused.add(self.layer)
        return super().__torch_dispatch__(func, types, args, kwargs)


def counted(index: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Masks that have numbers as indexes, whose number is then known."""
    out: list[Tensor | None] = []
    for part in index:
        if part is not None and part.dtype == torch.bool and not isinstance(part, FakeTensor):
            out.extend(part.nonzero(as_tuple=True))
        else:
            out.append(part)
    return out


class WithoutNumbers:
    """A backend whose embedding is given ids without numbers, and whose blocks tell the meter where it is."""

    def __init__(self, backend: Backend, meter: Rehearsal) -> None:
        self._backend, self._meter = backend, meter

    @property
    def shape(self) -> ModelShape:
        """The backend's."""
        return self._backend.shape

    @property
    def blocks(self) -> Sequence[Block]:
        """The backend's."""
        return tuple(Told(block, layer, self._meter) for layer, block in enumerate(self._backend.blocks))

    def sites(self) -> Sequence[Site]:
        """The backend's."""
        return self._backend.sites()

    def embed(self, batch: Batch, tap: Tap) -> Stream:
        """The stream before the first block, without numbers."""
        self._meter.layer = -1
        return self._backend.embed(dataclasses.replace(batch, inputs=stand_ins().from_tensor(batch.inputs)), tap)

    def unembed(self, resid: Tensor, tap: Tap) -> Tensor:
        """The backend's."""
        return self._backend.unembed(resid, tap)

    def weight(self, name: str) -> Tensor:
        """The backend's."""
        return self._backend.weight(name)


@dataclass(frozen=True, eq=False)
class Told:
    """A block that tells the meter which layer runs."""

    block: Block
    layer: int
    meter: Rehearsal

    def __call__(self, stream: Stream, batch: Batch, tap: Tap, memory: Memory | None) -> tuple[Stream, Memory | None]:
        """The block."""
        self.meter.layer = self.layer
        return self.block(stream, batch, tap, memory)


def without_functions(spec: HookSpec) -> HookSpec:
    """The same spec with copies in place of functions, which nobody but a run may call."""
    entries = []
    for entry in spec.entries:
        if isinstance(entry, Edit) and isinstance(entry.intervention, Apply):
            entry = dataclasses.replace(entry, intervention=dataclasses.replace(entry.intervention, function=same))
        entries.append(entry)
    return HookSpec(tuple(entries))


def same(x: Tensor) -> Tensor:
    """The private copy that a function is given."""
    return x
