"""Long inputs piece by piece: each piece goes on from what the one before has left, and little of the way is kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.abreast import repeating
from mi_core.calling import check_fired, gather, taps_for
from mi_core.errors import InputError, MissingActivation, SpecError
from mi_core.layout import Layout
from mi_core.loop import forward
from mi_core.memory import ModelMemory, after_position
from mi_core.prompts import Prompts
from mi_core.protocols import Memory
from mi_core.receipt import Receipt
from mi_core.run import Run
from mi_core.stepping import Steps
from mi_core.taps import Record
from mi_core.windows import Window

if TYPE_CHECKING:
    from mi_core.model import Model
    from mi_core.spec import HookSpec

__all__ = ["Streamed", "stream"]


class Streamed(Run):
    """A run of pieces: the logits at each row's last token, every token's loss, and what is remembered at the end."""

    def __init__(self, *, losses: Tensor | None, remembered: ModelMemory, **run: Any) -> None:
        super().__init__(last_only=True, **run)
        self._losses = losses
        self._remembered = remembered

    @property
    def token_losses(self) -> Float[Tensor, "batch column"]:
        """The loss (nats) of predicting each real token from those before it; 0 at a row's first token and pads."""
        if self._losses is None:
            raise MissingActivation("this run kept no losses: stream with losses=True.")
        return self._layout.outward(self._losses, ("batch", "pos"))

    def _need_all_logits(self, what: str) -> None:
        """The losses were taken on the way."""

    def memory(self, pos: int = -1) -> ModelMemory:
        """What the model remembers after each row's last token.

        Raises:
            NotRecorded: another position, of a recurrent model.
        """
        return self._remembered.cut(after_position(self._layout.length, self._layout.start, pos))


def stream(
    model: Model, prompts: Prompts, spec: HookSpec, *, chunk: int, losses: bool, memory: ModelMemory | None
) -> Streamed:
    """See :meth:`Model.stream`."""
    began = time.perf_counter()
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise InputError(f"chunk={chunk!r}: give a whole number of at least 1.", chunk=chunk)
    if not model.shape.causal:
        raise InputError(f"{model.name} reads in both directions, so its inputs cannot be run piece by piece.")
    if losses and model.shape.numbers is not None:
        raise InputError(f"{model.name} reads numbers, so there is no loss of its inputs: give losses=False.")
    layout = Layout.of(prompts, None if memory is None else memory.length)
    layout.check_positions(model.shape, model.name)
    steps = Steps(spec, model.points, layout, None, prompts.rows)
    refuse_from_start(steps)
    pieces = Pieces(model, layout, steps, losses, memory)
    begins = range(0, layout.width, chunk)
    with torch.no_grad(), repeating(model.backend, len(begins)):
        for begin in begins:
            pieces.call(begin, min(begin + chunk, layout.width))
    return pieces.result(prompts, time.perf_counter() - began)


def refuse_from_start(steps: Steps) -> None:
    """Refuse sites that need all of a row at once, before anything runs."""
    for name in steps.binding.asked:
        if steps.binding.points.by_name[name].site.from_start:
            raise SpecError(
                f"{name!r} gives every earlier token its weight, so it cannot be had piece by piece. Use model.run.",
                point=name,
            )


class Pieces:
    """A stream while it runs."""

    def __init__(
        self, model: Model, layout: Layout, steps: Steps, losses: bool, memory: ModelMemory | None = None
    ) -> None:
        self.model, self.layout, self.steps = model, layout, steps
        self.layers: Sequence[Memory] | None = None if memory is None else memory.layers
        self.losses = torch.zeros(layout.ids.shape) if losses else None
        self.last: Tensor | None = None
        """The logits at the last token that each row has had so far."""
        self.sizes: list[int] = []
        """Bytes that were remembered behind the first piece and behind the latest."""

    def call(self, begin: int, stop: int) -> None:
        """Run the columns from ``begin`` to ``stop`` of every row; a row that is over changes nothing any more."""
        model, kept = self.model, Record()
        layout, window = self.piece(begin, stop)
        bound = self.steps.bound(window, layout, capture=True)
        taps = taps_for(bound, layout, window.rows, kept, model.device, False)
        batch = layout.batch(model.device, "end")
        whole = self.losses is not None or not bound.last_layer < model.shape.n_layers
        outcome = forward(model.backend, batch, taps, memory=self.layers, logits="all" if whole else "last")
        check_fired(bound, kept)
        gather(bound, kept, model.device)
        self.steps.keep(kept, bound, window, anew=False)
        self.layers = outcome.memory
        assert outcome.logits is not None
        self.read(outcome.logits, layout, begin)
        self.sizes = [*self.sizes[:1], self.memory().bytes]

    def piece(self, begin: int, stop: int) -> tuple[Layout, Window]:
        """The columns of a piece, of every row."""
        whole = self.layout
        first, end = whole.length.clamp(max=begin), whole.length.clamp(max=stop)
        length = end - first
        mask = torch.arange(stop - begin) < length[:, None]
        columns = slice(begin, stop)
        layout = Layout(
            whole.ids[:, columns],
            length,
            whole.positions[:, columns],
            whole.start + first,
            None if bool(mask.all()) else mask,
            first if begin else None,
        )
        return layout, Window(torch.arange(len(length)), first, end, whole.start)

    def read(self, logits: Tensor, layout: Layout, begin: int) -> None:
        """Take the losses of a piece, whose first tokens the piece before predicted, and the logits at its last."""
        row = torch.arange(len(logits), device=logits.device)
        at = (layout.length.clamp(min=1) - 1).to(logits.device) if logits.shape[1] > 1 else torch.zeros_like(row)
        last = logits[row, at]
        if self.losses is not None:
            seen = logits[:, :-1] if self.last is None else torch.cat((self.last[:, None], logits[:, :-1]), 1)
            skip = logits.shape[1] - seen.shape[1]
            targets = layout.ids[:, skip:].to(logits.device)
            taken = -seen.float().log_softmax(-1).gather(-1, targets[..., None])[..., 0].cpu()
            real = torch.arange(skip, logits.shape[1]) < layout.length[:, None]
            self.losses[:, begin + skip : begin + logits.shape[1]] = torch.where(real, taken, 0.0)
        over = (layout.length == 0).to(logits.device)
        self.last = last if self.last is None else torch.where(over[:, None], self.last, last)

    def memory(self) -> ModelMemory:
        """What is remembered so far."""
        assert self.layers is not None
        whole = self.layout
        return ModelMemory(self.layers, whole.start + whole.length, self.model.name, self.model.backend)

    def result(self, prompts: Prompts, seconds: float) -> Streamed:
        """The run."""
        assert self.last is not None
        dtype = self.model.dtype
        return Streamed(
            losses=self.losses,
            remembered=self.memory(),
            prompts=prompts,
            layout=self.layout,
            points=self.steps.binding.points,
            logits=self.last[:, None],
            captured=self.steps.captured(self.layout, dtype, before=False),
            before=self.steps.captured(self.layout, dtype, before=True),
            receipt=self.receipt(prompts, seconds),
        )

    def receipt(self, prompts: Prompts, seconds: float) -> Receipt:
        """The account of all pieces."""
        model, binding = self.model, self.steps.binding
        layers = range(model.shape.n_layers)
        notes = [*binding.notes]
        if self.sizes[-1] > self.sizes[0]:
            notes.append(
                f"what the layers remember grew with the input, from {self.sizes[0]} bytes behind the first piece to "
                f"{self.sizes[-1]}: attention keeps every key and value"
            )
        return Receipt(
            model=model.name,
            provenance=model.provenance,
            spec=repr(binding.spec),
            asked=dict(binding.spellings),
            fired=tuple(name for name in binding.points.by_name if name in self.steps.fired),
            layers=tuple(layers),
            stopped_after=None,
            kernels={layer: binding.kernel(layer) for layer in layers},
            tokens=tuple(self.layout.length.tolist()),
            bos=tuple(model.bos_of(row.ids) for row in prompts.rows),
            dtype=str(model.dtype).removeprefix("torch."),
            device=str(model.device),
            seconds=seconds,
            notes=tuple(notes),
        )
