"""Plans of sweeps in words, and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mi_core.explaining import (
    RAN_ONCE,
    Topics,
    amount,
    as_text,
    capture_lines,
    cost_data,
    cost_lines,
    kernel_lines,
    opening,
    run_data,
    weight_lines,
    write_lines,
)
from mi_core.layer_spans import layer_words

if TYPE_CHECKING:
    from mi_core.rehearsing_sweeps import PlannedPack
    from mi_core.sweep_plans import SweepPlan

__all__ = ["sweep_data", "sweep_topics"]

BY_LAYER = "layer by layer: {} go through a layer together, so that its weights come once"
SHOWN = 12
"""How many packs are told one by one."""


def sweep_topics(plan: SweepPlan) -> Topics:
    """What a sweep will do."""
    topics = [
        ("sweep", [sizes(plan), opening(plan.base)]),
        ("weights", weight_lines(plan.base.model)),
        ("metric", [metric_line(plan)]),
        ("source", [] if plan.source is None else source_lines(plan)),
        ("under all", write_lines(plan.base.binding)),
        ("base run", base_lines(plan)),
        ("packs", pack_lines(plan)),
        ("passes", pass_lines(plan) if plan.by_layer else []),
        ("calls", [f"at most {plan.tokens} tokens in one call of a layer; out of memory, half as many"]),
        ("cost", sweep_cost_lines(plan)),
    ]
    return [(topic, lines) for topic, lines in topics if lines]


def sizes(plan: SweepPlan) -> str:
    """How many cells, along which axes."""
    count = len(plan.cells)
    axes = " x ".join(f"{len(axis.labels)} {name}" for name, axis in plan.axes.items())
    return f"{count} cell{'' if count == 1 else 's'}: {axes}"


def metric_line(plan: SweepPlan) -> str:
    """What is measured, and on which logits."""
    where = "each row's last token" if plan.metric.pos == -1 else "every position"
    reads = f", and {', '.join(plan.metric.reads)}" if plan.metric.reads else ""
    last = ", all that the last layer computes" if plan.metric.pos == -1 else ""
    return f"{plan.metric.name}, from the logits of {where}{reads}{last}"


def source_lines(plan: SweepPlan) -> list[str]:
    """The run that cells take values from."""
    assert plan.source is not None
    return [
        "one run more, of the input that cells take values from",
        *capture_lines(plan.source.binding, plan.source.rehearsal),
    ]


def base_lines(plan: SweepPlan) -> list[str]:
    """What is run once for all cells."""
    found = plan.rehearsal
    count, kept = plan.base.model.shape.n_layers, amount(found.trunk_bytes)
    return [
        f"all {count} layers, once; keeps streams and memory of every layer ({kept})",
        *kernel_lines(plan.base.binding, plan.base.layers, found.fused),
    ]


def pass_lines(plan: SweepPlan) -> list[str]:
    """How often weights come that come and go."""
    together = ["base run", *(["source"] if plan.source_abreast else []), "all cells"]
    lines = [BY_LAYER.format(f"{', '.join(together[:-1])} and {together[-1]}")]
    if plan.source is not None and not plan.source_abreast:
        lines.append("one pass before for the source, because the cells are made of its numbers")
    return lines


def pack_lines(plan: SweepPlan) -> list[str]:
    """How the cells run together."""
    found = plan.rehearsal
    lines = [f"{len(found.packs)}; each cell goes on from the base run at its own layer and position"]
    lines += [pack_line(plan, pack) for pack in found.packs[:SHOWN]]
    if len(found.packs) > SHOWN:
        lines.append(f"... and {len(found.packs) - SHOWN} more")
    lines += [f"{count} cell{'' if count == 1 else 's'}: {kernel}" for kernel, count in found.kernels.items()]
    alone = sum(pack.functions for pack in found.packs)
    if alone:
        lines.append(f"{alone} cell{'' if alone == 1 else 's'} with functions (Apply): run one by one")
    return lines


def pack_line(plan: SweepPlan, pack: PlannedPack) -> str:
    """One pack."""
    n_layers = plan.base.model.shape.n_layers
    inside = sorted({layer for layer in pack.layers if 0 <= layer < n_layers})
    joins = ["at the embedding"] if -1 in pack.layers else []
    joins += [f"before {layer_words(inside)}"] if inside else []
    joins += ["behind the layers"] if n_layers in pack.layers else []
    starts = sorted({column for rows in pack.first for column in rows})
    where = f"position {starts[0]}" if len(starts) == 1 else f"positions {starts[0]} to {starts[-1]}"
    count = len(pack.cells)
    return f"{count} cell{' goes' if count == 1 else 's go'} on {', '.join(joins)}, from {where}"


def sweep_cost_lines(plan: SweepPlan) -> list[str]:
    """Operations and memory, and what a loop of whole runs would take."""
    found = plan.rehearsal
    if found.cost is None:
        return [
            f"cannot be told before the sweep: this model decides by the numbers that it computes ({found.unknown})"
        ]
    loop = plan.base.operations * len(plan.cells) + (0 if plan.source is None else plan.source.operations)
    share = f"{found.cost.operations / max(loop, 1):.2f}"
    return [
        *cost_lines(found.cost),
        f"{share} of the operations of a loop of whole runs ({amount(loop, 'operations')})",
        *([RAN_ONCE.replace("it once", "the base run once")] if plan.base.rehearsal.missed else []),
    ]


def sweep_data(plan: SweepPlan) -> dict[str, Any]:
    """A sweep's plan as JSON."""
    found = plan.rehearsal
    return {
        "cells": len(plan.cells),
        "axes": {name: [str(label) for label in axis.labels] for name, axis in plan.axes.items()},
        "metric": plan.metric.name,
        "base": run_data(plan.base),
        "source": None if plan.source is None else run_data(plan.source),
        "tokens_per_call": plan.tokens,
        "packs": [vars(pack) for pack in found.packs],
        "kernels": dict(found.kernels),
        **cost_data(found.cost),
        "unknown": found.unknown,
        "explained": as_text(sweep_topics(plan)),
    }
