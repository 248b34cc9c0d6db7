"""What a run will do, decided before it: which layers, which kernels, what is kept where; and what it costs.

`Model.run` makes this plan and carries it out; `Model.plan` makes it and leaves it at that.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from mi_core.abreast import Stages
from mi_core.binding import Binding, bind
from mi_core.budget import advice_when_full
from mi_core.calling import Called, call, call_in_chunks, row_chunks, staged_call
from mi_core.captured import captured_as
from mi_core.errors import InputError
from mi_core.layout import Layout
from mi_core.memory import ModelMemory, remembered
from mi_core.parking import Parking
from mi_core.prompts import Prompts
from mi_core.protocols import Backend, Memory, Stream
from mi_core.receipt import Receipt
from mi_core.run import Run
from mi_core.spec import HookSpec
from mi_core.taps import Record

if TYPE_CHECKING:
    from mi_core.explaining import Topics
    from mi_core.model import Model
    from mi_core.rehearsing import Rehearsed

__all__ = ["Logits", "Plan", "planned"]

Logits = Literal["all", "last"] | None
OUT_OF_MEMORY = (
    'What helps: batch_tokens= runs rows in chunks; logits="last" or None keeps less; captures can be narrowed, '
    '.at(pos=-1), or kept elsewhere, device="host". model.plan(...).explain() tells what each takes.'
)
"""What to do about a run that needs more memory than there is."""


@dataclass(frozen=True, eq=False)
class Plan:
    """One run of a model, decided: :meth:`explain` says it in words, :meth:`run` does it."""

    model: Model
    prompts: Prompts
    binding: Binding
    """What the spec does, at which points and on which part of them."""
    logits: Logits
    grad: bool = False
    resumable: bool = False
    memory: ModelMemory | None = None
    batch_tokens: int | None = None

    @property
    def layout(self) -> Layout:
        """The rows, left-aligned."""
        return self.binding.layout

    @property
    def last_layer(self) -> int | None:
        """The last layer that anybody needs (-1: the embedding); None where logits are wanted."""
        if self.logits is not None:
            return None
        needed = self.binding.last_layer
        return max(needed, self.model.shape.n_layers - 1) if self.resumable else needed

    @property
    def layers(self) -> range:
        """The layers that are run."""
        n_layers, last = self.model.shape.n_layers, self.last_layer
        return range(n_layers if last is None else min(last + 1, n_layers))

    @property
    def stops_after(self) -> int | None:
        """The layer after which the run stops because nothing behind it is needed; None for a whole run."""
        return self.last_layer if len(self.layers) < self.model.shape.n_layers else None

    @property
    def unembedded(self) -> Logits:
        """The columns whose logits are computed: all, where somebody looks behind the layers."""
        beyond = self.binding.last_layer == self.model.shape.n_layers
        return "all" if self.logits == "last" and beyond else self.logits

    @property
    def kernels(self) -> dict[int, str]:
        """For each layer that is run: ``"fused"``, or why not."""
        return {layer: self.binding.kernel(layer) for layer in self.layers}

    @cached_property
    def chunks(self) -> list[Tensor] | None:
        """The rows of each call, where they are run apart; None for one call."""
        return None if self.batch_tokens is None else row_chunks(self.layout.length, self.batch_tokens)

    @cached_property
    def rehearsal(self) -> Rehearsed:
        """What the run costs and what it brings, found by running it on tensors without numbers.

        A backend that decides by the numbers that it computes (which experts, how large a chunk) is run once with them.
        Functions (`Apply`) are not called. Under ``grad=True`` it is the forward pass that is counted.
        """
        from mi_core.rehearsing import rehearse

        return rehearse(self)

    @property
    def operations(self) -> int:
        """Floating-point operations, as PyTorch's own counter counts them."""
        return self.rehearsal.cost.operations

    @property
    def peak_bytes(self) -> int:
        """The most memory that is held at one time beside the weights."""
        return self.rehearsal.cost.peak

    def explain(self) -> str:
        """The plan in words."""
        from mi_core.explaining import as_text

        return as_text(self.topics())

    def topics(self) -> Topics:
        """The plan in words, topic by topic."""
        from mi_core.explaining import run_topics

        return run_topics(self)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON."""
        from mi_core.explaining import run_data

        return run_data(self)

    def run(self, began: float | None = None) -> Run:
        """Do what is planned."""
        began = time.perf_counter() if began is None else began
        with advice_when_full(OUT_OF_MEMORY):
            called = self.called(self.model.backend)
        return self.finished(called, time.perf_counter() - began)

    def called(self, backend: Backend) -> Called:
        """The calls of the model, or of a stand-in for its backend."""
        device, computed = self.model.device, self.unembedded
        if self.batch_tokens is None:
            called = call(
                self.binding,
                backend,
                device,
                memory=self.memory,
                record="all" if self.resumable else None,
                last_layer=self.last_layer,
                logits=computed,
                grad=self.grad,
            )
        else:
            called = call_in_chunks(
                self.binding,
                backend,
                device,
                self.batch_tokens,
                memory=self.memory,
                last_layer=self.last_layer,
                logits=computed,
            )
        return called

    def staged(
        self,
        parked: Parking | None,
        *,
        kept: Record | None = None,
        streams: list[Stream] | None = None,
        memories: list[Memory] | None = None,
    ) -> Stages[Called]:
        """The call of a run that others need while it runs: they see captures, streams and memories grow."""
        return staged_call(
            self.binding,
            self.model.backend,
            self.model.device,
            memory=self.memory,
            record="all" if self.resumable else None,
            last_layer=self.last_layer,
            logits=self.unembedded,
            kept=kept,
            streams=streams,
            memories=memories,
            parked=parked,
        )

    def finished(self, called: Called, seconds: float) -> Run:
        """The run, with its account."""
        if self.unembedded != self.logits and called.logits is not None:
            row = torch.arange(len(called.logits), device=called.logits.device)
            last = called.logits[row, (self.layout.length - 1).to(row.device)][:, None]
            called = replace(called, logits=last)
        binding, record = self.binding, called.record
        receipt = Receipt(
            model=self.model.name,
            provenance=self.model.provenance,
            spec=repr(binding.spec),
            asked=dict(binding.spellings),
            fired=tuple(name for name in binding.points.by_name if name in record.fired),
            layers=tuple(self.layers),
            stopped_after=self.stops_after,
            kernels=self.kernels,
            tokens=tuple(binding.layout.length.tolist()),
            bos=tuple(self.model.bos_of(row.ids) for row in self.prompts.rows),
            dtype=str(self.model.dtype).removeprefix("torch."),
            device=str(self.model.device),
            seconds=seconds,
            chunks=called.chunks,
            notes=binding.notes,
        )
        return Run(
            prompts=self.prompts,
            layout=binding.layout,
            points=binding.points,
            logits=called.logits if self.logits is not None else None,
            last_only=self.logits == "last",
            captured=captured_as(binding.after, record.after, record.path),
            before=captured_as(binding.before, record.before, {}),
            receipt=receipt,
            trunk=called.trunk,
        )


def planned(
    model: Model,
    prompts: Prompts,
    spec: HookSpec,
    *,
    logits: Logits = "all",
    grad: bool = False,
    resumable: bool = False,
    batch_tokens: int | None = None,
    memory: ModelMemory | str | PathLike[str] | None = None,
) -> Plan:
    """Decide; raises what :meth:`Model.run` raises before it runs."""
    if logits not in ("all", "last", None):
        raise InputError(f'logits={logits!r}: ask for "all", "last" or None.', logits=logits)
    before = remembered(memory, model, len(prompts.ids))
    layout = Layout.of(prompts, None if before is None else before.length)
    layout.check_positions(model.shape, model.name)
    binding = bind(spec, model.points, layout, prompts.rows)
    if batch_tokens is not None:
        if batch_tokens < 1:
            raise InputError(f"batch_tokens={batch_tokens}: at least 1.", batch_tokens=batch_tokens)
        if grad or resumable or binding.needs_all_rows:
            what = "grad=True" if grad else "resumable=True" if resumable else "a mean over the rows of this run"
            raise InputError(f"batch_tokens runs the rows apart, but {what} needs them together. Leave one out.")
    return Plan(model, prompts, binding, logits, grad, resumable, before, batch_tokens)
