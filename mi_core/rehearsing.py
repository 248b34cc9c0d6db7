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
from mi_core.placed import PlacedBackend
from mi_core.protocols import Backend, Batch, Block, Memory, ModelShape, Site, Stream, Tap
from mi_core.spec import Edit, HookSpec

if TYPE_CHECKING:
    from mi_core.calling import Called
    from mi_core.plans import Plan
    from mi_core.run import Run

__all__ = ["Kept", "Rehearsal", "Rehearsed", "Understudy", "rehearse", "without_functions"]


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

    cost: Cost
    run: Run
    """The run, without numbers."""
    after: Mapping[str, Kept]
    before: Mapping[str, Kept]
    """Captures before interventions."""
    fused: frozenset[int]
    """The layers in which one of PyTorch's fused attention kernels ran."""
    missed: str = ""
    """What could not be told without numbers, so that the run was run for once with them."""
    answers: Mapping[int, Sequence[float]] = field(default_factory=dict)
    """What its layers then asked of numbers."""


def rehearse(plan: Plan) -> Rehearsed:
    """Carry out a plan without numbers; where the backend decides by numbers, with them."""
    missed = ""
    try:
        meter = Rehearsal()
        called = carried_out(plan, meter, numbers=False)
    except Exception as error:  # whatever a backend raises that misses its numbers
        missed = f"{type(error).__name__}: {error}"
        meter = Rehearsal()
        called = carried_out(plan, meter, numbers=True)
    after, before = (
        {name: Kept.of(value) for name, value in kept.items()} for kept in (called.record.after, called.record.before)
    )
    run = plan.finished(called, 0.0)
    return Rehearsed(meter.cost(), run, after, before, frozenset(meter.fused), missed, meter.heard)


def carried_out(plan: Plan, meter: Rehearsal, *, numbers: bool) -> Called:
    """The calls of a plan, under a meter; functions of the user's are left out."""
    model = plan.model
    with meter:
        binding = bind(without_functions(plan.binding.spec), model.points, plan.layout, plan.prompts.rows)
        return dataclasses.replace(plan, binding=binding).called(Understudy(model.backend, meter, numbers=numbers))


class Rehearsal(Meter):  # type: ignore[no-untyped-call]  # torch does not annotate its mode
    """A meter under which tensors without numbers behave as real ones wherever no number is needed.

    Whether something is so (``bool(x.any())``) is answered with no, as by numbers that nothing is wrong with; how large
    something is, by what the layer heard in a run with numbers, where there was one.
    """

    def __init__(self, answers: Mapping[int, Sequence[float]] | None = None) -> None:
        super().__init__()
        self.layer = -1
        self.fused: set[int] = set()
        self.heard: dict[int, list[float]] = {}
        self._answers = answers or {}
        self._asked = 0

    def enter(self, layer: int) -> None:
        """A layer begins, or the embedding (-1)."""
        self.layer, self._asked = layer, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """One operator."""
        aten = torch.ops.aten
        if func is aten._local_scalar_dense.default:
            return self._answer(func, args[0])
        if func is aten.equal.default and any(isinstance(tensor, FakeTensor) for tensor in args):
            return False
        if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
            args = (args[0], counted(args[1]), *args[2:])
        if func.name().startswith("aten::_scaled_dot_product"):
            self.fused.add(self.layer)
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _answer(self, func: Any, asked: Tensor) -> Any:
        """A number that somebody reads out of a tensor."""
        if not isinstance(asked, FakeTensor):
            answer = func(asked)
            if asked.is_floating_point():
                self.heard.setdefault(self.layer, []).append(answer)
            return answer
        if asked.dtype == torch.bool:
            return False
        known = self._answers.get(self.layer, ())
        if not known or not asked.is_floating_point():
            return func(asked)
        self._asked += 1
        return known[min(self._asked, len(known)) - 1]


def counted(index: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Masks that have numbers as indexes, whose number is then known."""
    out: list[Tensor | None] = []
    for part in index:
        if part is not None and part.dtype == torch.bool and not isinstance(part, FakeTensor):
            out.extend(part.nonzero(as_tuple=True))
        else:
            out.append(part)
    return out


class Understudy:
    """A backend whose embedding is given ids without numbers, and whose blocks tell the meter where it is."""

    def __init__(self, backend: Backend, meter: Rehearsal, *, numbers: bool = False) -> None:
        self._backend = backend if numbers or not isinstance(backend, PlacedBackend) else backend.understudied()
        self._meter, self._numbers = meter, numbers

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
        self._meter.enter(-1)
        if not self._numbers:
            batch = dataclasses.replace(batch, inputs=stand_ins().from_tensor(batch.inputs))
        return self._backend.embed(batch, tap)

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
        self.meter.enter(self.layer)
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
