"""Whole plans compiled: a spec's run, or each column of a generation, as one graph with its captures as outputs.

A run is traced once for each shape of input: its Python, taps and selectors included, is gone from the graph, so that
there is nothing left to break it. What cannot be traced runs as it is, and says why.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mi_core.abreast import comes_and_goes
from mi_core.compiled_decoding import CompiledWriter, Decoding
from mi_core.errors import HookContractBroken, NotCompiled
from mi_core.generating import generate
from mi_core.placed import placed_in
from mi_core.run import Run
from mi_core.traced import Traced, acting, called_of, named, operations_of, others
from mi_core.tracing import NotAGraph, graph_of

if TYPE_CHECKING:
    from mi_core.generation import Generation
    from mi_core.model import Model
    from mi_core.plans import Logits, Plan
    from mi_core.spec import HookSpec

__all__ = ["Compiled"]


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
        self.decoding = Decoding(model, options, self._refused)

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
            outputs = traced.call(plan.layout.ids.to(self.model.device))
        return plan.finished(called_of(traced, outputs), 0.0)

    def generate(self, inputs: Any, **asked: Any) -> Generation:
        """Write on behind prompts as `Model.generate` does, whose arguments it takes; each new column is a graph.

        One graph serves all columns in which the spec does the same. The prompts, and columns in which something of
        the spec begins or ends, run as they are.

        Raises:
            NotCompiled: with ``strict``, why.
        """
        reason = refusal_to_decode(self.model, asked.get("cache", True))
        if reason:
            self._refused("this generation", reason)
            return generate(self.model, inputs, self.spec, **asked)
        return generate(self.model, inputs, self.spec, partial(CompiledWriter, self.decoding), **asked)

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
        lines += self.decoding.explain()
        return "\n".join(lines) or "nothing was run yet"

    def _trace(self, plan: Plan) -> Traced:
        reason = refusal(plan)
        traced = Traced(None, reason=reason) if reason else traced_of(plan, self.options)
        if traced.reason:
            self._refused("this run", traced.reason)
        return traced

    def _refused(self, what: str, reason: str) -> None:
        said = f"{what} of {self.model.name} is not compiled: {reason}."
        if self.strict:
            raise NotCompiled(f"{said} Use model.{'run' if what == 'this run' else 'generate'}.", reason=reason)
        warnings.warn(f"{said} It runs as it is.", stacklevel=4)


FUNCTION = "a function that is applied may do anything"
OFFLOADED = "some of its weights are offloaded, and come while their layer is called"


def refusal(plan: Plan) -> str:
    """Why a plan is not even traced."""
    return FUNCTION if plan.binding.holds_functions else OFFLOADED if comes_and_goes(plan.model.backend) else ""


def refusal_to_decode(model: Model, cache: bool) -> str:
    """Why no column of a generation is traced."""
    if not cache:
        return "without a cache every step runs all tokens anew"
    if comes_and_goes(model.backend):
        return OFFLOADED
    placed = placed_in(model.backend)
    homes = set() if placed is None else {placed.device_map.computed_on(unit) for unit in placed.layers.values()}
    return "its layers are on several devices" if len(homes) > 1 else ""


def shape_of(plan: Plan) -> tuple[Any, ...]:
    """Everything about an input but its tokens: two with the same are computed by the same graph."""
    layout = plan.layout
    rows = tuple(tuple(values.tolist()) for values in (layout.length, layout.start))
    positions = tuple(map(tuple, layout.positions.tolist()))
    return tuple(layout.ids.shape), rows, positions, acting(plan.binding)


def traced_of(plan: Plan, options: dict[str, Any]) -> Traced:
    """The graph of a plan, with everything but the tokens (or numbers) as constants; compiled."""
    names: list[tuple[str, str]] = []
    fired: set[str] = set()

    def outputs(ids: Tensor) -> list[Tensor]:
        binding = replace(plan.binding, layout=replace(plan.layout, ids=ids))
        called = replace(plan, binding=binding).called(plan.model.backend)
        found = named(called.logits, called.record)
        names[:] = found
        fired.update(called.record.fired)
        return list(found.values())

    ids = plan.layout.ids.to(plan.model.device)
    try:
        graph = graph_of(outputs, ids)
    except NotAGraph as error:
        return Traced(None, reason=str(error))
    check(graph, outputs, others(ids, plan.model.shape))
    compiled = torch.compile(graph, fullgraph=True, dynamic=False, **options)
    return Traced(compiled, tuple(names), frozenset(fired), operations_of(graph))


def check(graph: torch.fx.GraphModule, outputs: Callable[[Tensor], Sequence[Tensor]], ids: Tensor) -> None:
    """Refuse a graph that is not the call on other inputs: something decides in a way that no tracer sees."""
    with torch.no_grad():
        pairs = zip(graph(ids), outputs(ids), strict=True)
        if not all(torch.equal(one.nan_to_num(), two.nan_to_num()) for one, two in pairs):
            raise HookContractBroken(
                "the graph of a run does not give what the run gives on other tokens of the same shape: the backend "
                "decides by numbers in a way that tracing does not see. Use model.run."
            )
