"""A sweep whose weights do not fit: base run, source and cells go through each layer together, so it comes once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mi_core.abreast import abreast, parking
from mi_core.budget import SHARE, free_bytes, halved_on_out_of_memory
from mi_core.calling import Called
from mi_core.grouping import groups_of
from mi_core.packing import Pack, Variant
from mi_core.protocols import Memory, Stream
from mi_core.resuming import variant_of
from mi_core.taps import Record
from mi_core.trunk import Trunk

if TYPE_CHECKING:
    from mi_core.run import Run
    from mi_core.sweep_plans import SweepPlan

__all__ = ["Passes"]


class Passes:
    """The cells of a sweep in as few passes over the weights as the host's memory allows, the base run in the first.

    The run that cells take values from goes with them in each: what it has in a layer is let go behind that layer.
    """

    def __init__(self, plan: SweepPlan) -> None:
        self.plan = plan
        self.base: Run | None = None
        self.backend = plan.base.model.backend
        self.streams: list[Stream] = []
        self.memories: list[Memory] = []
        self.trunk = Trunk.growing(self.backend, plan.base.binding, self.streams, self.memories)

    def run(self, cells: Sequence[int]) -> Iterator[list[tuple[int, Variant]]]:
        """The cells, finished pack by pack, with their variants; behind the first, there is a base run."""
        rows = self.plan.base.prompts.rows
        coming = self.plan.coming
        with nullcontext() if coming is None else coming.expected():
            variants = [variant_of(self.trunk, rows, self.plan.cells[cell] + self.plan.reads) for cell in cells]
        groups = list(groups_of(variants, self.trunk, self.plan.tokens))
        for some in self._shares(groups, variants):
            finished: list[list[tuple[int, Variant]]] = []

            def attempt(tokens: int, some: Any = some, finished: Any = finished) -> None:
                finished.clear()
                self._pass([[variants[index] for index in group] for group in some], tokens)
                finished += [[(cells[index], variants[index]) for index in group] for group in some]

            halved_on_out_of_memory(attempt, self.plan.tokens)
            yield from finished

    def _pass(self, packs: Sequence[Sequence[Variant]], tokens: int) -> None:
        """One pass over the weights."""
        last_only, parked = self.plan.metric.pos == -1, parking(self.backend)
        for variant in (variant for pack in packs for variant in pack):
            variant.record = Record()
        runs: list[Any] = [Pack(self.trunk, pack, tokens, parked=parked).stages(last_only=last_only) for pack in packs]
        if self.plan.coming is not None and packs:
            source, behind = self.plan.coming.beside(parked)
            runs = [source, *runs, behind]
        with_base = self.base is None
        if with_base:
            self.streams.clear()
            self.memories.clear()
            runs.insert(0, self.plan.base.staged(parked, streams=self.streams, memories=self.memories))

        def finished(number: int, result: Called | None) -> None:
            if with_base and number == 0:
                assert result is not None
                self.base = self.plan.base.finished(result, 0.0)

        with torch.no_grad():
            abreast(self.backend, runs, finished)

    def _shares(self, groups: Sequence[list[int]], variants: Sequence[Variant]) -> Iterator[list[list[int]]]:
        """Packs that go through the layers together: their streams, which wait on the host, fit its memory."""
        room = SHARE * free_bytes(torch.device("cpu"))
        some: list[list[int]] = []
        filled = 0.0
        for group in groups:
            own = sum(waiting_bytes(variants[index], self.plan) for index in group)
            if some and filled + own > room:
                yield some
                some, filled = [], 0.0
            some.append(group)
            filled += own
        if some or self.base is None:
            yield some


def waiting_bytes(variant: Variant, plan: SweepPlan) -> int:
    """What a variant's stream takes, or its logits at the end."""
    model = plan.base.model
    length: Tensor = plan.base.layout.length
    tokens = len(length) * int((length - variant.fork.first).max())
    logits = len(length) if plan.metric.pos == -1 else tokens
    return max(tokens * model.shape.d_model, logits * model.shape.d_vocab) * model.dtype.itemsize
