"""The run that cells of a sweep take values from, made when they need it: on its own, or layer by layer beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from mi_core.abreast import Stages
from mi_core.forking import layer_of
from mi_core.names import Point
from mi_core.parking import Parking
from mi_core.run import Run
from mi_core.selection import Selection, select
from mi_core.selectors import Selector
from mi_core.taps import Record

if TYPE_CHECKING:
    from mi_core.plans import Plan

__all__ = ["SourceRun"]


class SourceRun(Run):
    """A run that is run when somebody asks what it holds.

    As a value (`Replace(source)`) it gives the same point of the run, so nobody needs a layer of it before their own:
    in a sweep that goes layer by layer, its values of each layer are there when the cells come to it.
    """

    def __init__(self, plan: Plan, run: Callable[[], Run]) -> None:
        # what is known before it is run; the rest is that of the whole run
        self._prompts, self._layout, self._points = plan.prompts, plan.layout, plan.binding.points
        self._last_only = plan.logits == "last"
        self._shown = {}
        self._plan, self._run = plan, run
        self._passing = Record()
        self._expected = False

    @cached_property
    def _whole(self) -> Run:
        return self._run()

    def __getattr__(self, name: str) -> Any:
        """What only the whole run has."""
        if name in ("_captured", "_before", "_logits", "_trunk", "receipt"):
            return getattr(self._whole, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def __repr__(self) -> str:
        rows, columns = self.tokens.shape[:2]
        return f"Run({self._plan.model.name!r}, {rows} x {columns} tokens, run for a sweep)"

    @property
    def alone(self) -> bool:
        """Whether it was run on its own."""
        return "_whole" in self.__dict__

    @property
    def content(self) -> tuple[Tensor, Tensor, Tensor]:
        """What tells it from other runs of its model: tokens, mask and positions."""
        return self.tokens, self.mask, self._layout.positions

    def values_at(
        self, point: Point, selectors: Mapping[str, Selector]
    ) -> tuple[Tensor, Mapping[str, Int[Tensor, "batch"]]]:
        """See :class:`mi_core.sources.Source`."""
        value = self._passing.after.get(point.name)
        if value is None and self._expected and point.name in self._plan.binding.after:
            sizes = [self._layout.size(dim) or point.site.sizes[dim] for dim in point.site.dims]
            value = torch.zeros(()).expand(sizes)
        if self.alone or value is None:
            return super().values_at(point, selectors)
        selection = self._select(selectors, point)
        return selection.gather(value)[0], selection.counts(self._layout)

    def _select(self, selectors: Mapping[str, Selector], point: Point) -> Selection:
        return select(selectors, point, self._layout, self._prompts.rows, model=self._plan.model.name)

    @contextmanager
    def expected(self) -> Iterator[None]:
        """Give stand-ins meanwhile, for specs that are bound before it runs."""
        self._expected = True
        try:
            yield
        finally:
            self._expected = False

    def beside(self, parked: Parking | None) -> tuple[Stages[Any], Stages[None]]:
        """It and what lets its values go: what runs before those that take values from it, and what runs behind them.

        It stops after the last layer that it is asked for.
        """
        self._passing = Record()
        return replace(self._plan, logits=None).staged(parked, kept=self._passing), self._let_go(self._passing)

    def _let_go(self, passing: Record) -> Stages[None]:
        """Nobody takes the value of a layer behind that layer."""
        binding = self._plan.binding
        for stage in range(-1, self._plan.model.shape.n_layers + 1):
            yield stage
            for name in [name for name in passing.after if layer_of(name, binding) == stage]:
                del passing.after[name]
