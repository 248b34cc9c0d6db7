"""What a sweep will do, decided before it: one base run, and packs of cells that go on from it.

`Model.sweep` makes this plan and carries it out; `Model.plan_sweep` makes it and leaves it at that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mi_core.abreast import comes_and_goes
from mi_core.budget import tokens_that_fit
from mi_core.cells import Specs, cells_of, source_plan, under_all
from mi_core.errors import InputError
from mi_core.grids import Axis
from mi_core.metrics import Function, Metric, as_metric
from mi_core.plans import Plan
from mi_core.source_runs import SourceRun
from mi_core.spec import HookSpec, capture

if TYPE_CHECKING:
    from mi_core.explaining import Topics
    from mi_core.model import Model
    from mi_core.rehearsing_sweeps import RehearsedSweep

__all__ = ["SweepPlan", "planned_sweep"]


@dataclass(frozen=True, eq=False)
class SweepPlan:
    """Many specs on one input, decided: :meth:`explain` says it in words."""

    base: Plan
    """The run that all cells go on from; it keeps streams and memory."""
    source: Plan | None
    """The run that cells take values from, if it is made for them."""
    axes: Mapping[str, Axis]
    cells: Sequence[HookSpec]
    """What is done in each cell, the last axis fastest."""
    metric: Metric
    tokens: int
    """How many tokens one call of a block may have."""
    coming: SourceRun | None = None
    """The run of the source, where it is made when the cells need it."""

    @property
    def by_layer(self) -> bool:
        """Whether base run and cells go through each layer together, because weights come and go."""
        return comes_and_goes(self.base.model.backend)

    @property
    def source_abreast(self) -> bool:
        """Whether the source goes through the layers with them; its numbers may be needed before, to make the cells."""
        return self.by_layer and self.coming is not None

    @property
    def reads(self) -> HookSpec:
        """What the metric reads in every cell."""
        return capture(self.metric.reads) if self.metric.reads else HookSpec()

    @cached_property
    def rehearsal(self) -> RehearsedSweep:
        """The packs in which the cells run and what all of it costs, found by running it on tensors without numbers.

        Functions (`Apply`) and the metric are not called.
        """
        from mi_core.rehearsing_sweeps import rehearse_sweep

        return rehearse_sweep(self)

    @property
    def operations(self) -> int | None:
        """Floating-point operations of base run, source and cells; None where they cannot be told."""
        cost = self.rehearsal.cost
        return None if cost is None else cost.operations

    @property
    def peak_bytes(self) -> int | None:
        """The most memory that is held at one time beside the weights; None where it cannot be told."""
        cost = self.rehearsal.cost
        return None if cost is None else cost.peak

    def explain(self) -> str:
        """The plan in words."""
        from mi_core.explaining import as_text

        return as_text(self.topics())

    def topics(self) -> Topics:
        """The plan in words, topic by topic."""
        from mi_core.explaining_sweeps import sweep_topics

        return sweep_topics(self)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON."""
        from mi_core.explaining_sweeps import sweep_data

        return sweep_data(self)


def planned_sweep(
    model: Model,
    inputs: Any,
    specs: Specs,
    metric: Metric | Function,
    *,
    batch: int | str = "auto",
    attention_mask: Any = None,
    position_ids: Any = None,
    run_source: bool = True,
) -> SweepPlan:
    """Decide; raises what :meth:`Model.sweep` raises before it runs.

    A grid's source is run when its values are needed; without ``run_source`` they are values without numbers.
    """
    measured = as_metric(metric)
    base = model.plan(
        inputs,
        under_all(specs) + (capture(measured.reads) if measured.reads else HookSpec()),
        logits="last" if measured.pos == -1 else "all",
        resumable=True,
        attention_mask=attention_mask,
        position_ids=position_ids,
    )
    made = source_plan(model, specs, attention_mask, position_ids)
    coming = None if made is None else SourceRun(made, made.run if run_source else lambda: made.rehearsal.run)
    source = getattr(specs, "source", None) if coming is None else coming
    axes, cells = cells_of(specs, base, source)
    if coming is not None and coming.alone:
        coming = None  # the cells were made of its numbers
    bound = measured.bound(model, len(base.layout.ids))
    tokens = tokens_that_fit(model, base.layout.width) if batch == "auto" else checked(batch)
    return SweepPlan(base, made, axes, cells, bound, tokens, coming)


def checked(batch: int | str) -> int:
    """The tokens that a call of a block may have."""
    if not isinstance(batch, int) or batch < 1:
        raise InputError(f'batch={batch!r}: give "auto", or how many tokens one call of a block may have.', batch=batch)
    return batch
