"""Many specs on one input, at the least work: each variant computes only what it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mi_core.binding import bind
from mi_core.budget import halved_on_out_of_memory, tokens_that_fit
from mi_core.errors import InputError, SelectorError, SpecError, ValueMismatch
from mi_core.forking import Fork, fork_of
from mi_core.grids import Axis, Grid
from mi_core.labelled import Label, Labelled
from mi_core.metrics import Function, Metric, as_metric
from mi_core.packing import Pack, Variant
from mi_core.resuming import behind, under
from mi_core.sources import is_source
from mi_core.spec import HookSpec, capture
from mi_core.sweep_store import Store
from mi_core.taps import Record

if TYPE_CHECKING:
    from mi_core.model import Model
    from mi_core.run import Run
    from mi_core.trunk import Trunk

__all__ = ["Sweep", "SweepInterrupted", "sweep"]

Specs = Sequence[HookSpec] | Mapping[Label, HookSpec] | Grid
GROUPED_COLUMNS = 8
"""Into how many groups, at least, the columns of a prompt fall; variants of one group start together."""


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


def sweep(
    model: Model,
    inputs: Any,
    specs: Specs,
    metric: Metric | Function,
    *,
    batch: int | str = "auto",
    store: Any = None,
    attention_mask: Any = None,
    position_ids: Any = None,
    progress: bool | None = None,
) -> Sweep:
    """See :meth:`Model.sweep`."""
    measured = as_metric(metric)
    base_spec, pending = cells_of(model, specs, attention_mask, position_ids)
    reads = capture(measured.reads) if measured.reads else HookSpec()
    base = model.run(
        inputs,
        base_spec + reads,
        logits="last" if measured.pos == -1 else "all",
        resumable=True,
        attention_mask=attention_mask,
        position_ids=position_ids,
    )
    trunk = base._trunk
    assert trunk is not None
    bound = measured.bound(model, len(base.tokens))
    axes, cells = pending(base)
    values = torch.full((len(cells), len(base.tokens)), torch.nan)
    kept = None if store is None else Store.open(store, model, base, measured)
    todo = [i for i, spec in enumerate(cells) if kept is None or not kept.fill(values, i, spec)]
    variants = [made(trunk, base, spec + reads) for spec in (cells[i] for i in todo)]
    budget = tokens_that_fit(model, trunk) if batch == "auto" else checked(batch)
    done = 0
    try:
        for group in shown(groups_of(variants, trunk, budget), len(todo), progress):
            run_group(trunk, [variants[i] for i in group], bound, budget)
            for i in group:
                values[todo[i]] = value_of(variants[i], base, trunk, bound)
                if kept is not None:
                    kept.add(cells[todo[i]], values[todo[i]])
                variants[i].logits, variants[i].record = None, Record()
            done += len(group)
    except KeyboardInterrupt:
        raise SweepInterrupted(labelled(values, axes, bound, base), done, len(todo)) from None
    return labelled(values, axes, bound, base)


def checked(batch: int | str) -> int:
    """The tokens that a call of a block may have."""
    if not isinstance(batch, int) or batch < 1:
        raise InputError(f'batch={batch!r}: give "auto", or how many tokens one call of a block may have.', batch=batch)
    return batch


def cells_of(
    model: Model, specs: Specs, attention_mask: Any, position_ids: Any
) -> tuple[HookSpec, Callable[[Run], tuple[dict[str, Axis], list[HookSpec]]]]:
    """What the base run does, and a function that makes axes and cells when the base run is there."""
    if isinstance(specs, Grid):
        grid = specs
        source = source_of(model, grid, attention_mask, position_ids)

        def of_grid(base: Run) -> tuple[dict[str, Axis], list[HookSpec]]:
            check_source(base, source, grid)
            trunk = base._trunk
            assert trunk is not None
            axes = grid.filled(model.points, trunk.layout, base._prompts.rows)
            return axes, replace(grid, under=HookSpec()).cells(axes, source)

        return grid.under, of_grid
    labels = tuple(specs) if isinstance(specs, Mapping) else tuple(range(len(specs)))
    listed = list(specs.values() if isinstance(specs, Mapping) else specs)
    wrong = [spec for spec in listed if not isinstance(spec, HookSpec)]
    if wrong or not listed:
        seen = repr(wrong[0]) if wrong else "no spec"
        raise SpecError(f"a sweep takes specs: a list, a mapping from labels, or a grid; got {seen}.")
    return HookSpec(), lambda _: ({"spec": Axis(labels, labels)}, listed)


def source_of(model: Model, grid: Grid, attention_mask: Any, position_ids: Any) -> Any:
    """The run that a grid takes values from; an input is run once, capturing what the cells need."""
    if grid.source is None or is_source(grid.source):
        return grid.source
    given = grid.source
    as_ids = not isinstance(given, str) and hasattr(given, "shape")
    own = {"attention_mask": attention_mask, "position_ids": position_ids} if as_ids else {}
    return model.run(given, capture(grid.points), logits="last", **own)


def check_source(base: Run, source: Any, grid: Grid) -> None:
    """Refuse prompts of different lengths when cells go over positions, showing both."""
    over_positions = any(name in ("pos", "query_pos", "key_pos") and axis is None for name, axis in grid.axes.items())
    if source is None or not over_positions or not hasattr(source, "text_tokens"):
        return
    theirs, ours = source.text_tokens, base.text_tokens
    for row, tokens in enumerate(ours):
        other = theirs[row if len(theirs) > 1 else 0]
        if len(other) != len(tokens):
            differs = next((i for i, (a, b) in enumerate(zip(tokens, other, strict=False)) if a != b), len(tokens))
            raise SelectorError(
                f"row {row}: the input has {len(tokens)} tokens, the source {len(other)}, so their positions do not "
                f"belong together. Input {tokens}; source {other}; they differ from token {differs} on. Use prompts "
                'cut into as many tokens, or spans: each={"pos": {"subject": mi.Span(...)}}.',
                row=row,
            )


def made(trunk: Trunk, base: Run, spec: HookSpec) -> Variant:
    """A variant of the base run."""
    texts = base._prompts.rows
    own = bind(spec, trunk.binding.of_model, trunk.layout, texts)
    before = under(trunk.binding)
    whole = bind(before + spec, trunk.binding.of_model, trunk.layout, texts) if before else own
    return Variant(whole, fork_of(own, whole))


def groups_of(variants: Sequence[Variant], trunk: Trunk, tokens: int) -> Iterator[list[int]]:
    """Variants that start at the same columns, in waves whose streams fit the budget."""
    step = max(1, min(GROUPED_COLUMNS, trunk.layout.width // GROUPED_COLUMNS))
    starts: dict[tuple[int, ...], list[int]] = {}
    for index, variant in enumerate(variants):
        variant.fork = Fork(variant.fork.layer, variant.fork.first).lowered(step)
        starts.setdefault(tuple(variant.fork.first.tolist()), []).append(index)
    for first, members in starts.items():
        width = int((trunk.layout.length - torch.tensor(first)).max())
        # a wave holds the streams of all its variants between layers; a call holds what a block needs inside
        wave = max(1, 4 * tokens // (width * len(first)))
        for begin in range(0, len(members), wave):
            yield members[begin : begin + wave]


def run_group(trunk: Trunk, variants: Sequence[Variant], metric: Metric, tokens: int) -> None:
    """Run the variants of a group; out of memory, in halves."""

    def attempt(allowed: int) -> None:
        for variant in variants:
            variant.record = Record()
        with torch.no_grad():
            Pack(trunk, variants[0].fork.first, variants, allowed).run(last_only=metric.pos == -1)

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
    trunk = base._trunk
    assert trunk is not None
    sizes = [len(axis.labels) for axis in axes.values()]
    coords: dict[str, Sequence[Label]] = {name: axis.labels for name, axis in axes.items()}
    logits = base.last_logits if metric.pos == -1 else base._logits
    assert logits is not None
    activations = {name: base._captured[base._points.find(name).name].value for name in metric.reads}
    own = metric.measure(logits, trunk.layout, activations).cpu()
    baseline = Labelled(own, ("batch",), {}, metric.name, metric.unit)
    values = values.reshape(*sizes, values.shape[-1])
    return Sweep(values, (*axes, "batch"), coords, metric.name, metric.unit, baseline)


def shown(groups: Iterator[list[int]], total: int, progress: bool | None) -> Iterator[list[int]]:
    """The groups, with a progress bar where somebody watches."""
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
