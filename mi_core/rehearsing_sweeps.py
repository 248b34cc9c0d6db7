"""A sweep on tensors without numbers: in which packs its cells run, and what all of it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mi_core.binding import bind
from mi_core.forking import layer_of
from mi_core.grouping import groups_of
from mi_core.metering import Cost
from mi_core.packing import Variant
from mi_core.rehearsing import Rehearsal, Understudy, without_functions
from mi_core.resuming import variant_of
from mi_core.sweeping import run_group, value_of
from mi_core.taps import Record

if TYPE_CHECKING:
    from mi_core.plans import Plan
    from mi_core.sweep_plans import SweepPlan
    from mi_core.trunk import Trunk

__all__ = ["PlannedPack", "RehearsedSweep", "rehearse_sweep"]

SAMPLE = 24
"""So many cells of a pack are rehearsed; they stand for the others."""
LAST_LAYER_SPARES = 0.7
"""The part of the last layer that is not computed where only the last token's logits are wanted."""


@dataclass(frozen=True)
class PlannedPack:
    """Cells that run together."""

    cells: tuple[int, ...]
    layers: tuple[int, ...]
    """For each cell, the layer before which it joins: -1 the embedding, n_layers the unembedding."""
    first: tuple[tuple[int, ...], ...]
    """For each cell, the first column of each row that it computes anew."""
    functions: bool
    """Whether it is one cell that holds functions."""


@dataclass(frozen=True, eq=False)
class RehearsedSweep:
    """What a rehearsal found out."""

    cost: Cost | None
    """Of source, base run and cells; None where the backend decides by numbers, which a rehearsal has none of."""
    unknown: str
    """Why there is no cost."""
    packs: tuple[PlannedPack, ...]
    kernels: Mapping[str, int]
    """How many cells use which kernels."""
    trunk_bytes: int
    """What the base run keeps for the cells."""
    fused: frozenset[int]
    """The layers in which one of PyTorch's fused attention kernels ran."""


def rehearse_sweep(plan: SweepPlan) -> RehearsedSweep:
    """Carry out a plan without numbers."""
    once = plan.base.rehearsal
    trunk = once.run.trunk
    texts = plan.base.prompts.rows
    variants = [variant_of(trunk, texts, without_functions(cell) + plan.reads) for cell in plan.cells]
    groups = list(groups_of(variants, trunk, plan.tokens))
    packs = tuple(described(group, [variants[index] for index in group]) for group in groups)
    kernels = Counter(kernel_of(variant) for variant in variants)
    cost, unknown = None, ""
    try:
        cost = cost_of(plan, [[variants[index] for index in group] for group in groups])
    except Exception as error:  # whatever a backend raises that misses its numbers
        unknown = f"{type(error).__name__}: {error}"
    return RehearsedSweep(cost, unknown, packs, kernels, trunk.bytes, once.fused)


def cost_of(plan: SweepPlan, packs: Sequence[Sequence[Variant]]) -> Cost:
    """The cost of source, base run and packs; of packs that are alike, one is run."""
    own, model = plan.base, plan.base.model
    metric = replace(plan.metric, function=no_metric)
    known: dict[Any, int] = {}
    meter = Rehearsal(own.rehearsal.answers)
    with meter, torch.no_grad():
        binding = bind(without_functions(own.binding.spec), model.points, own.layout, own.prompts.rows)
        called = replace(own, binding=binding).called(Understudy(model.backend, meter))
        base = own.finished(called, 0.0)
        for members in packs:
            like = tuple(map(kind_of, members))
            if like in known:
                meter.operations += known[like]
                continue
            before = meter.operations
            some, work, size = sample(members, base.trunk)
            with meter.times(work, size):
                run_group(base.trunk, some, metric, max(1, round(plan.tokens / size)))
                for variant in some:
                    value_of(variant, base, base.trunk, metric)
                    variant.logits, variant.record = None, Record()
            known[like] = meter.operations - before
    if plan.source is None:
        return meter.cost()
    return after(plan.source.rehearsal.cost, source_bytes(plan, plan.source), meter.cost())


def source_bytes(plan: SweepPlan, source: Plan) -> int:
    """What is held at one time of the values that cells take: all of them, or those of the layer that all are in."""
    of_layer = Counter[int]()
    for name, value in source.rehearsal.after.items():
        of_layer[layer_of(name, source.binding)] += value.bytes
    return max(of_layer.values(), default=0) if plan.source_abreast else of_layer.total()


def sample(members: Sequence[Variant], trunk: Trunk) -> tuple[Sequence[Variant], float, float]:
    """Cells that stand for a pack, how much more work the whole of it is, and how many more tokens it holds."""
    if len(members) <= SAMPLE:
        return members, 1.0, 1.0
    n_layers = trunk.backend.shape.n_layers

    def tokens(variant: Variant) -> int:
        return int((trunk.layout.length - variant.fork.first).sum())

    def work(variant: Variant) -> float:
        # of the last layer little more than keys and values is computed
        return (n_layers - max(variant.fork.layer, 0) - LAST_LAYER_SPARES) * tokens(variant)

    ordered = sorted(members, key=work)
    # the middle of each stratum, so that much and little work have their share
    some = [ordered[(2 * place + 1) * len(ordered) // (2 * SAMPLE)] for place in range(SAMPLE)]
    return some, ratio(work, members, some), ratio(tokens, members, some)


def ratio(of: Callable[[Variant], float], members: Sequence[Variant], some: Sequence[Variant]) -> float:
    """How much more there is of the members than of some of them."""
    return max(1.0, sum(map(of, members)) / max(sum(map(of, some)), 1))


def described(group: Sequence[int], members: Sequence[Variant]) -> PlannedPack:
    """A pack as data."""
    return PlannedPack(
        tuple(group),
        tuple(variant.fork.layer for variant in members),
        tuple(tuple(variant.fork.first.tolist()) for variant in members),
        any(variant.binding.holds_functions for variant in members),
    )


def kernel_of(variant: Variant) -> str:
    """What a cell asks of the layers it runs."""
    sites = dict.fromkeys(site for found in variant.binding.looked_at.values() for site in found)
    if sites:
        return f"explicit arithmetic where they look at {', '.join(sites)}; fused kernel elsewhere"
    return "fused kernel, with cut edges in its mask" if variant.binding.cuts else "fused kernel"


def kind_of(variant: Variant) -> tuple[Any, ...]:
    """What a variant costs by: where it starts, and at which points it does what."""
    binding = variant.binding
    steps = tuple(
        (name, *(type(getattr(step, "intervention", step)).__name__ for step in found))
        for acts in (binding.steps, binding.cuts)
        for name, found in acts.items()
    )
    captures = (*binding.after, *binding.before)
    return variant.fork.layer, tuple(variant.fork.first.tolist()), steps, captures


def no_metric(logits: Tensor, *_: object) -> Tensor:
    """The metric of a rehearsal: a number for each row."""
    return torch.zeros(len(logits), device=logits.device)


def after(first: Cost, kept: int, then: Cost) -> Cost:
    """The cost of two computations, the second of which runs while something of the first is kept."""
    devices = dict.fromkeys((*first.peak_bytes, *then.peak_bytes))
    peaks = {device: max(first.peak_bytes.get(device, 0), kept + then.peak_bytes.get(device, 0)) for device in devices}
    return Cost(first.operations + then.operations, peaks)
