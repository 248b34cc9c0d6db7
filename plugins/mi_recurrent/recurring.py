"""Running a recurrence over a call: in chunks, with every state laid open, or with states written on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from mi_core.protocols import Batch, Tap
from mi_recurrent.chunks import in_chunks

__all__ = ["Kernel", "Recurred", "Recurrence", "every_column_is_real", "pads", "recur", "states_of", "stepwise"]


@runtime_checkable
class Recurrence(Protocol):
    """``step`` says what it is, ``chunked`` is the same many tokens at a time.

    Inputs are ``[batch head pos n]`` (``[*lead n]`` in a step), the state ``[batch head *state]``.
    """

    @property
    def size(self) -> int:
        """Tokens in a chunk."""
        ...

    @property
    def steps_up_to(self) -> int:
        """Tokens for which steps are quicker than chunks."""
        ...

    def step(self, inputs: Sequence[Tensor], state: Tensor) -> tuple[Tensor, Tensor]:
        """What one token reads, and the state behind it; any leading dims."""
        ...

    def chunked(self, inputs: Sequence[Tensor], state: Tensor) -> tuple[Tensor, Tensor]:
        """What each token reads, and the states before each chunk and behind the last."""
        ...

    def silenced(self, inputs: Sequence[Tensor], pads: Bool[Tensor, "batch 1 pos 1"]) -> tuple[Tensor, ...]:
        """Inputs that leave the state as it is at the pads."""
        ...


@runtime_checkable
class Kernel(Recurrence, Protocol):
    """A recurrence that weighs values, as attention does."""

    def pattern(self, inputs: Sequence[Tensor]) -> Tensor:
        """What each token reads of each value, without an initial state."""
        ...

    def empty(self, like: Tensor, d_value: int) -> Tensor:
        """The state of rows that have seen nothing."""
        ...


@dataclass(frozen=True, eq=False)
class Recurred:
    """What a call of a recurrence gives."""

    read: Shaped[Tensor, "batch head pos d_value"]
    end: Shaped[Tensor, "batch head *state"]
    """Behind each row's own last token."""
    states: Shaped[Tensor, "batch pos head *state"] | None
    """Behind each token, where somebody wants them."""


def stepwise(
    kernel: Recurrence, inputs: Sequence[Tensor], state: Tensor, added: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Token by token: what each reads, and the state behind each, ``[batch head pos *state]``.

    ``added`` is put on the state behind each token.
    """
    reads, states = [], []
    for pos in range(inputs[0].shape[2]):
        read, state = kernel.step([x[:, :, pos] for x in inputs], state)
        if added is not None:
            state = state + added[:, :, pos]
        reads.append(read)
        states.append(state)
    return torch.stack(reads, 2), torch.stack(states, 2)


def states_of(kernel: Recurrence, inputs: Sequence[Tensor], boundaries: Tensor) -> Tensor:
    """The state behind each token, from those at the chunks' boundaries: all chunks take their steps together."""
    if kernel.size == 1:
        return boundaries[:, :, 1:]
    parts = [in_chunks(x, kernel.size) for x in inputs]
    state, states = boundaries[:, :, :-1], []
    for token in range(min(kernel.size, inputs[0].shape[2])):
        _, state = kernel.step([x[:, :, :, token] for x in parts], state)
        states.append(state)
    return torch.stack(states, 3).flatten(2, 3)[:, :, : inputs[0].shape[2]]


def recur(kernel: Recurrence, inputs: Sequence[Tensor], state: Tensor, batch: Batch, tap: Tap, site: str) -> Recurred:
    """What is read, with the states laid open if somebody looks at them (at ``site``) or wants to go on from them."""
    inputs = kernel.silenced(inputs, pads(batch)) if not every_column_is_real(batch) else tuple(inputs)
    opened = tap.wants(site) or batch.record not in (None, "end")
    if tap.edits(site):
        alone = inputs[0].shape[2] == 1 and not torch.is_grad_enabled()
        return (written_once if alone else written)(kernel, inputs, state, tap, site)
    states: Tensor | None
    if inputs[0].shape[2] <= kernel.steps_up_to and not torch.is_grad_enabled():
        read, states = stepwise(kernel, inputs, state)
        end = states[:, :, -1]
    else:
        read, boundaries = kernel.chunked(inputs, state)
        end = boundaries[:, :, -1]
        states = states_of(kernel, inputs, boundaries) if opened else None
    if not opened or states is None:
        return Recurred(read, end, None)
    seen = states.transpose(1, 2)
    if tap.wants(site):
        tap(site, seen)
    return Recurred(read, end, seen)


def written(kernel: Recurrence, inputs: Sequence[Tensor], state: Tensor, tap: Tap, site: str) -> Recurred:
    """The same with writes: a state that is written at a position is what the next position starts from.

    The call is cut behind each position at which the write changes something. Under gradients, states that are only
    read are put on the path as what each adds to itself: nothing, with the slope of everything that follows from it.
    """
    first, reads, begun = state, [], 0
    settled: list[Tensor] = []
    while True:
        rest = [x[:, :, begun:] for x in inputs]
        read, boundaries = kernel.chunked(rest, state)
        seen = torch.cat([*settled, states_of(kernel, rest, boundaries).transpose(1, 2)], 1)
        offered = seen.clone() if torch.is_grad_enabled() else seen
        after = tap(site, offered)
        place = begun + first_change(seen[:, begun:], after[:, begun:])
        reads.append(read[:, :, : place + 1 - begun])
        if place >= seen.shape[1]:
            break
        settled.append(seen[:, begun : place + 1])
        state, begun = after[:, place], place + 1
        if begun == seen.shape[1]:
            break
    if torch.is_grad_enabled() and not settled:
        added = (after - seen).transpose(1, 2)
        read, states = stepwise(kernel, inputs, first, added)
        # the last state is read by nobody in this call: it is on the path all the same, without a slope
        return Recurred(read + 0.0 * added.sum(), states[:, :, -1], after)
    return Recurred(torch.cat(reads, 2), after[:, -1], after)


def written_once(kernel: Recurrence, inputs: Sequence[Tensor], state: Tensor, tap: Tap, site: str) -> Recurred:
    """The same of a single token, which has read by the time that its state is written."""
    read, states = stepwise(kernel, inputs, state)
    after = tap(site, states.transpose(1, 2))
    return Recurred(read, after[:, -1], after)


def first_change(before: Tensor, after: Tensor) -> int:
    """The first position at which some row differs; the number of positions if none does."""
    if after is before or before.shape[1] == 0:
        return before.shape[1]
    differs = (before.detach() != after.detach()).transpose(0, 1).flatten(1).any(1)
    return int(differs.to(torch.int8).argmax()) if bool(differs.any()) else len(differs)


def every_column_is_real(batch: Batch) -> bool:
    """Whether no row is shorter than the call; read from the device once for each call."""
    whole: bool = batch.once("mi_recurrent.whole", lambda: bool((batch.length == batch.positions.shape[1]).all()))
    return whole


def pads(batch: Batch) -> Bool[Tensor, "batch 1 pos 1"]:
    """The columns behind each row's own."""
    made: Tensor = batch.once(
        ("mi_recurrent.pads", batch.length.device),
        lambda: torch.arange(batch.positions.shape[1], device=batch.length.device) >= batch.length[:, None],
    )
    return made[:, None, :, None]
