"""Whole plans compiled: a spec's run as one graph, with its captures as outputs.

A run is traced once for each shape of input: its Python, taps and selectors included, is gone from the graph, so that
there is nothing left to break it. What cannot be traced runs as it is, and says why.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mi_core.abreast import comes_and_goes
from mi_core.calling import Called
from mi_core.errors import HookContractBroken, NotCompiled
from mi_core.protocols import ModelShape
from mi_core.run import Run
from mi_core.selection import Selection
from mi_core.taps import Record
from mi_core.tracing import NotAGraph, graph_of

if TYPE_CHECKING:
    from mi_core.model import Model
    from mi_core.plans import Logits, Plan
    from mi_core.spec import HookSpec

__all__ = ["Compiled"]


@dataclass(frozen=True, eq=False)
class Traced:
    """One shape of input: its graph and what the outputs are, or the reason why there is none."""

    call: Callable[[Tensor], Sequence[Tensor]] | None
    names: tuple[tuple[str, str], ...] = ()
    """Of each output: ``("logits", "")``, or ``"after"`` / ``"before"`` and the point."""
    fired: frozenset[str] = frozenset()
    operations: int = 0
    reason: str = ""


class Compiled:
    """A spec to be run on many inputs: ``compiled(inputs)`` is the run that ``model.run(inputs, spec)`` gives.

    It is compiled at the first input of each shape (rows, lengths, and where the spec's selectors fall in them), and
    equals the uncompiled run to rounding. Where a run cannot be compiled a warning gives the reason, and it runs as it
    is; with ``strict`` that is an error.

    Raises:
        NotCompiled: with ``strict``, why.
        SpecError: as of `Model.run`.
        InputError: as of `Model.run`.
    """

    def __init__(
        self, model: Model, spec: HookSpec, *, logits: Logits = "all", strict: bool = False, **options: Any
    ) -> None:
        self.model, self.spec, self.logits, self.strict, self.options = model, spec, logits, strict, options
        self.traced: dict[Any, Traced] = {}

    def __call__(self, inputs: Any, *, attention_mask: Any = None, position_ids: Any = None) -> Run:
        """Run one input."""
        plan = self.model.plan(
            inputs, self.spec, logits=self.logits, attention_mask=attention_mask, position_ids=position_ids
        )
        key = shape_of(plan)
        if key not in self.traced:
            self.traced[key] = self._trace(plan)
        traced = self.traced[key]
        if traced.call is None:
            return plan.run()
        with torch.no_grad():
            outputs = traced.call(plan.layout.ids)
        return plan.finished(called_of(traced, outputs), 0.0)

    def explain(self) -> str:
        """What was done for each shape so far.

        >>> import mi_core as mi
        >>> print(mi.load("tiny-world").compile(mi.capture("hook_embed")).explain())
        nothing was run yet
        """
        lines = []
        for (shape, *_), traced in self.traced.items():
            how = (
                f"one graph of {traced.operations} operations"
                if traced.call is not None
                else f"as it is: {traced.reason}"
            )
            lines.append(f"{' x '.join(map(str, shape))}: {how}")
        return "\n".join(lines) or "nothing was run yet"

    def _trace(self, plan: Plan) -> Traced:
        reason = refusal(plan)
        traced = Traced(None, reason=reason) if reason else traced_of(plan, self.options)
        if traced.reason:
            said = f"this run of {self.model.name} is not compiled: {traced.reason}."
            if self.strict:
                raise NotCompiled(f"{said} Use model.run.", reason=traced.reason)
            warnings.warn(f"{said} It runs as it is.", stacklevel=3)
        return traced


def refusal(plan: Plan) -> str:
    """Why a plan is not even traced."""
    if plan.binding.holds_functions:
        return "a function that is applied may do anything"
    if comes_and_goes(plan.model.backend):
        return "some of its weights are offloaded, and come while their layer is called"
    return ""


def shape_of(plan: Plan) -> tuple[Any, ...]:
    """Everything about an input but its tokens: two with the same are computed by the same graph."""
    layout, binding = plan.layout, plan.binding
    chosen = [
        (name, *selected(bound.selection)) for kept in (binding.after, binding.before) for name, bound in kept.items()
    ]
    edits = [
        (name, *selected(edit.selection)) if hasattr(edit, "selection") else (name,)
        for steps in (binding.steps, binding.cuts)
        for name, found in steps.items()
        for edit in found
    ]
    rows = tuple(tuple(values.tolist()) for values in (layout.length, layout.start))
    positions = tuple(map(tuple, layout.positions.tolist()))
    return tuple(layout.ids.shape), rows, positions, tuple(chosen), tuple(edits)


def selected(selection: Selection) -> tuple[Any, ...]:
    """A selection as something that can be compared."""
    return tuple(
        (dim, str(choice.index.tolist()), None if choice.present is None else str(choice.present.tolist()), choice.drop)
        for dim, choice in selection.choices.items()
    )


def traced_of(plan: Plan, options: dict[str, Any]) -> Traced:
    """The graph of a plan, with everything but the tokens (or numbers) as constants; compiled."""
    names: list[tuple[str, str]] = []
    fired: set[str] = set()

    def outputs(ids: Tensor) -> list[Tensor]:
        binding = replace(plan.binding, layout=replace(plan.layout, ids=ids))
        called = replace(plan, binding=binding).called(plan.model.backend)
        found: dict[tuple[str, str], Tensor] = {}
        if called.logits is not None:
            found["logits", ""] = called.logits
        found |= {("after", name): value for name, value in called.record.after.items()}
        found |= {("before", name): value for name, value in called.record.before.items()}
        names[:] = found
        fired.update(called.record.fired)
        return list(found.values())

    try:
        graph = graph_of(outputs, plan.layout.ids)
    except NotAGraph as error:
        return Traced(None, reason=str(error))
    check(graph, outputs, others(plan.layout.ids, plan.model.shape))
    compiled = torch.compile(graph, fullgraph=True, dynamic=False, **options)
    return Traced(
        compiled, tuple(names), frozenset(fired), sum(node.op == "call_function" for node in graph.graph.nodes)
    )


def others(ids: Tensor, shape: ModelShape) -> Tensor:
    """Other tokens, or other numbers, of the same shape."""
    return 1.0 - ids / 2 if shape.numbers is not None else (ids + 1) % shape.d_vocab


def check(graph: torch.fx.GraphModule, outputs: Callable[[Tensor], Sequence[Tensor]], ids: Tensor) -> None:
    """Refuse a graph that is not the call on other inputs: something decides in a way that no tracer sees."""
    with torch.no_grad():
        pairs = zip(graph(ids), outputs(ids), strict=True)
        if not all(torch.equal(one.nan_to_num(), two.nan_to_num()) for one, two in pairs):
            raise HookContractBroken(
                "the graph of a run does not give what the run gives on other tokens of the same shape: the backend "
                "decides by numbers in a way that tracing does not see. Use model.run."
            )


def called_of(traced: Traced, outputs: Sequence[Tensor]) -> Called:
    """What a call brought back, by the names of its outputs."""
    record = Record(fired=set(traced.fired))
    logits = None
    for (kind, name), value in zip(traced.names, outputs, strict=True):
        if kind == "logits":
            logits = value
        else:
            getattr(record, kind)[name] = value
    return Called(logits, record, None)
