"""Many specs on one input, at the least work: each variant computes only what it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mi_core.budget import halved_on_out_of_memory
from mi_core.errors import ValueMismatch
from mi_core.grids import Axis
from mi_core.grouping import groups_of
from mi_core.labelled import Label, Labelled
from mi_core.metrics import Metric
from mi_core.packing import Pack, Variant
from mi_core.resuming import behind, variant_of
from mi_core.sweep_store import Store
from mi_core.sweeping_by_layer import Passes
from mi_core.taps import Record

if TYPE_CHECKING:
    from mi_core.run import Run
    from mi_core.sweep_plans import SweepPlan
    from mi_core.trunk import Trunk

__all__ = ["Sweep", "SweepInterrupted", "sweep"]


@dataclass(frozen=True, eq=False, repr=False)
class Sweep(Labelled):
    """The metric of every variant: the grid's axes, then ``batch``."""

    baseline: Labelled | None = None
    """The metric of the base run, ``batch``."""

    def normalised(self, clean: Labelled | float, corrupt: Labelled | float) -> Labelled:
        """``(value - corrupt) / (clean - corrupt)``, row by row: 0 is the corrupt run, 1 the clean one.

        Raises:
            ValueMismatch: clean and corrupt are the same in some row, so there is nothing to restore.
        """
        high, low = (self._per_row(given) for given in (clean, corrupt))
        if bool((high == low).any()):
            raise ValueMismatch(
                f"clean and corrupt have the same metric in some row ({high.tolist()}, {low.tolist()}): there is no "
                "effect to normalise by."
            )
        return Labelled((self.values - low) / (high - low), self.dims, self.coords, f"{self.name}, normalised", "")

    def _per_row(self, given: Labelled | float) -> Tensor:
        values = given.values if isinstance(given, Labelled) else torch.tensor(float(given))
        return values if "batch" in self.dims else values.mean()

    def at_place(self, dim: str, place: int) -> Labelled:
        """The part at one place along an axis; along ``batch`` the baseline's too."""
        part = super().at_place(dim, place)
        return self._with_baseline(part, dim, lambda base: base.at_place("batch", place))

    def at_places(self, dim: str, places: Sequence[int]) -> Labelled:
        """The part at several places along an axis; along ``batch`` the baseline's too."""
        part = super().at_places(dim, places)
        return self._with_baseline(part, dim, lambda base: base.at_places("batch", places))

    def mean(self, dim: str) -> Labelled:
        """The mean along an axis; along ``batch`` the baseline's too."""
        return self._with_baseline(super().mean(dim), dim, lambda base: base.mean("batch"))

    def _with_baseline(self, part: Labelled, dim: str, change: Callable[[Labelled], Labelled]) -> Labelled:
        if not isinstance(part, Sweep) or dim != "batch" or self.baseline is None:
            return part
        return replace(part, baseline=change(self.baseline))


class SweepInterrupted(KeyboardInterrupt):
    """Ctrl-C during a sweep; ``partial`` holds what was finished, NaN elsewhere."""

    def __init__(self, partial: Sweep, done: int, total: int) -> None:
        super().__init__(f"interrupted after {done} of {total} cells; .partial holds them")
        self.partial = partial


def sweep(plan: SweepPlan, *, store: Any = None, progress: bool | None = None) -> Sweep:
    """Carry out a plan; see :meth:`Model.sweep`."""
    metric = plan.metric
    values = torch.full((len(plan.cells), len(plan.base.layout.ids)), torch.nan)
    kept = None if store is None else Store.open(store, plan)
    todo = [i for i, spec in enumerate(plan.cells) if kept is None or not kept.fill(values, i, spec)]
    # base run and cells go together through layers that come and go
    base = None if plan.by_layer else plan.base.run()
    passes = Passes(plan) if plan.by_layer else None
    packs = passes.run(todo) if passes is not None else packs_of(plan, todo, base)
    done = 0
    try:
        for pack in shown(packs, len(todo), progress):
            base = passes.base if passes is not None else base
            assert base is not None
            for cell, variant in pack:
                values[cell] = value_of(variant, base, base.trunk, metric)
                if kept is not None:
                    kept.add(plan.cells[cell], values[cell])
                variant.logits, variant.record = None, Record()
            done += len(pack)
    except KeyboardInterrupt:
        if base is None:
            raise
        raise SweepInterrupted(labelled(values, plan.axes, metric, base), done, len(todo)) from None
    base = passes.base if passes is not None else base
    assert base is not None
    return labelled(values, plan.axes, metric, base)


def packs_of(plan: SweepPlan, cells: Sequence[int], base: Run | None) -> Iterator[list[tuple[int, Variant]]]:
    """The cells, finished pack by pack, with their variants."""
    assert base is not None
    trunk = base.trunk
    variants = [variant_of(trunk, plan.base.prompts.rows, plan.cells[cell] + plan.reads) for cell in cells]
    for group in groups_of(variants, trunk, plan.tokens):
        run_group(trunk, [variants[index] for index in group], plan.metric, plan.tokens)
        yield [(cells[index], variants[index]) for index in group]


def run_group(trunk: Trunk, variants: Sequence[Variant], metric: Metric, tokens: int) -> None:
    """Run the variants of a group; out of memory, in halves."""

    def attempt(allowed: int) -> None:
        for variant in variants:
            variant.record = Record()
        with torch.no_grad():
            Pack(trunk, variants, allowed).run(last_only=metric.pos == -1)

    halved_on_out_of_memory(attempt, tokens)


def value_of(variant: Variant, base: Run, trunk: Trunk, metric: Metric) -> Tensor:
    """The metric of a finished variant."""
    assert variant.logits is not None
    logits = variant.logits
    if metric.pos != -1:
        assert base._logits is not None
        logits = behind(base._logits, logits, variant, trunk)
    activations = {name: variant.record.after[variant.binding.points.find(name).name] for name in metric.reads}
    return metric.measure(logits, trunk.layout, activations).cpu()


def labelled(values: Tensor, axes: Mapping[str, Axis], metric: Metric, base: Run) -> Sweep:
    """The result."""
    sizes = [len(axis.labels) for axis in axes.values()]
    coords: dict[str, Sequence[Label]] = {name: axis.labels for name, axis in axes.items()}
    logits = base.last_logits if metric.pos == -1 else base._logits
    assert logits is not None
    activations = {name: base._captured[base._points.find(name).name].value for name in metric.reads}
    own = metric.measure(logits, base.trunk.layout, activations).cpu()
    baseline = Labelled(own, ("batch",), {}, metric.name, metric.unit)
    values = values.reshape(*sizes, values.shape[-1])
    return Sweep(values, (*axes, "batch"), coords, metric.name, metric.unit, baseline)


def shown(
    groups: Iterator[list[tuple[int, Variant]]], total: int, progress: bool | None
) -> Iterator[list[tuple[int, Variant]]]:
    """The packs, with a progress bar where somebody watches."""
    import sys

    if progress is False or (progress is None and not sys.stderr.isatty()) or total == 0:
        yield from groups
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("sweep"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("sweep", total=total)
        for group in groups:
            yield group
            bar.advance(task, len(group))
