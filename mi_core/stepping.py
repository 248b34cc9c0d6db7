"""A spec in a generation: what acts in each of its calls, and what the calls bring back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from mi_core.binding import Binding, BoundCapture, BoundEdit, bind, check_fit, without_layer
from mi_core.captured import Captured
from mi_core.edges import Knockout
from mi_core.errors import SelectorError, SpecError, ValueMismatch
from mi_core.fingerprint import version_of
from mi_core.interventions import Mean
from mi_core.joining import Piece, never_computed, pieces_joined
from mi_core.layout import POSITION_DIMS, Layout
from mi_core.names import Points
from mi_core.positions import Part
from mi_core.rows import RowText
from mi_core.scene import Scene
from mi_core.selection import Choice, Selection, own_dims, select
from mi_core.selectors import Selector
from mi_core.sources import Source
from mi_core.spec import Capture, Edit, HookSpec
from mi_core.taps import Record
from mi_core.windows import Window, spread

__all__ = ["Steps"]

COLUMNS = ("pos", "query_pos")


@dataclass(frozen=True, eq=False)
class PromptEdit(BoundEdit):
    """An edit that reaches prompt tokens only: it acts on the prompt as it would in a run of the prompt alone."""

    prompt: Layout

    def step(self, layout: Layout, rows: Tensor, whole: Layout) -> Callable[[Tensor], Tensor] | None:
        """What it does in a call that covers whole rows."""
        every = len(rows) == len(self.prompt.ids)
        own = self.prompt if every else self.prompt.rows(rows)
        scene = super().scene(own, rows, self.prompt)
        if scene.selection.empty:
            return None
        axes = [axis for axis, dim in enumerate(scene.dims) if dim in POSITION_DIMS]

        def act(value: Tensor) -> Tensor:
            block = value
            for axis in axes:
                block = block.narrow(axis, 0, min(own.width, block.shape[axis]))
            new = self.intervention.edit(block, scene)
            if block.shape == value.shape:
                return new
            out = value.clone()
            out[tuple(slice(0, size) for size in block.shape)] = new.to(value.dtype)
            return out

        return act


@dataclass(frozen=True, eq=False)
class StepEdit(BoundEdit):
    """An edit in one call, of those whose values are the same at every position that they reach."""

    one: Layout
    """All rows with a single column: what values are fitted to."""
    of_whole: Selection

    def scene(self, layout: Layout, rows: Tensor, whole: Layout) -> Scene:
        """What it sees in its call; ``selection`` is already that of the call."""
        own = own_dims(without_layer(self.intervention.selectors), self.point)
        return Scene(self.point, own, self.selection, layout, rows, self.one, self.of_whole)


class Steps:
    """A spec resolved once, for rows that are run piece by piece.

    On the prompts of a generation, whose rows may become ``horizon`` tokens long; without a horizon the rows are whole.
    """

    def __init__(
        self,
        spec: HookSpec,
        points: Points,
        prompt: Layout,
        horizon: Int[Tensor, "batch"] | None,
        texts: Sequence[RowText],
    ) -> None:
        refuse_ends(spec)
        self.prompt = prompt
        self.texts = texts
        self.grow = horizon is not None
        whole = prompt
        if horizon is not None:
            ids = torch.zeros(len(horizon), int(horizon.max()), dtype=torch.long)
            whole = Layout(ids, horizon, ids, prompt.start, None, prompt=prompt.length)
        self.binding: Binding = bind(spec, points, whole, texts)
        first = torch.zeros_like(whole.ids[:, :1])
        self.one = Layout(first, torch.ones_like(prompt.length), first, prompt.start, None)
        self.pieces: dict[tuple[str, bool], list[Piece]] = {}
        self.fired: set[str] = set()
        self._last: tuple[object, Binding] | None = None
        refuse_across(self.binding)
        for bound in self._edits(self.binding.steps):
            if self.grows(bound.selection):
                check_growing(bound, self.one, GROWING if self.grow else IN_PIECES)
            elif not unreachable(bound.selection):
                check_fit(bound, prompt)

    def _edits(self, steps: Mapping[str, Sequence[object]]) -> Iterator[BoundEdit]:
        return (step for acts in steps.values() for step in acts if isinstance(step, BoundEdit))

    @property
    def captures(self) -> bool:
        """Whether anything is kept."""
        return bool(self.binding.after or self.binding.before)

    @property
    def needs_all_rows(self) -> bool:
        """Whether something looks across rows."""
        return self.binding.needs_all_rows

    def grows(self, selection: Selection) -> bool:
        """Whether a selection reaches new tokens, or pieces of rows that are whole."""
        if not self.grow:
            return True
        choice = next((selection.choices[dim] for dim in COLUMNS if dim in selection.choices), None)
        if choice is None:
            return True
        index, present = spread(choice, len(self.prompt.length))
        return bool((present & (index >= self.prompt.length[:, None])).any())

    def bound(self, window: Window, layout: Layout, *, capture: bool) -> Binding:
        """What acts in one call: that of the call before, where that is the same."""
        key = (capture, tuple(window.rows.tolist())) if self._steady(window) else None
        if key is None or self._last is None or self._last[0] != key:
            made = self._bound(window, layout, capture)
            self._last = None if key is None else (key, made)
            return made
        return replace(self._last[1], layout=layout)

    def _steady(self, window: Window) -> bool:
        """Whether the call is one column of each row, and no selection begins or ends at it or behind it."""
        single = bool((window.stop == window.first + 1).all())
        return single and int(window.first.min()) >= self._settled

    @cached_property
    def _settled(self) -> int:
        """The first column from which every selection is the same for each new one."""
        made = self.binding
        edits = [*self._edits(made.steps), *self._edits(made.cuts)]
        selections = [each.selection for each in edits]
        selections += [each for insert in made.inserts for each in insert.selections.values() if each is not None]
        selections += [each.selection for each in (*made.after.values(), *made.before.values())]
        choices = [(dim, choice) for each in selections for dim, choice in each.choices.items() if dim in POSITION_DIMS]
        return max((settled(dim, choice, made.layout) for dim, choice in choices), default=0)

    def _bound(self, window: Window, layout: Layout, capture: bool) -> Binding:
        whole = self.binding
        inserts = {id(insert): insert.within(window.part) for insert in whole.inserts}
        made = Binding(whole.spec, whole.points, layout, whole.of_model, inserts=list(inserts.values()))
        for name, acts in whole.steps.items():
            here = [self._step(act, window) if isinstance(act, BoundEdit) else inserts[id(act)] for act in acts]
            if any(act is not None for act in here):
                made.steps[name] = [act for act in here if act is not None]
        for name, edits in whole.cuts.items():
            cuts = [cut for edit in edits if (cut := self._cut(edit, window)) is not None]
            if cuts:
                made.cuts[name] = cuts
        if capture:
            for kept, into in ((whole.after, made.after), (whole.before, made.before)):
                for name, bound in kept.items():
                    part = window.undropped(bound.selection)
                    if part is not None:
                        into[name] = BoundCapture(bound.point, bound.selectors, part, bound.placement)
        return made

    def _step(self, edit: BoundEdit, window: Window) -> BoundEdit | None:
        part = window.part(edit.selection)
        if part is None:
            return None
        if self.grows(edit.selection):
            return StepEdit(edit.point, edit.intervention, part, self.one, narrow(edit.selection))
        return PromptEdit(edit.point, edit.intervention, edit.selection, self.prompt)

    def _cut(self, edit: BoundEdit, window: Window) -> BoundEdit | None:
        part = window.part(edit.selection)
        return None if part is None else StepEdit(edit.point, edit.intervention, part, self.one, edit.selection)

    def keep(self, record: Record, bound: Binding, window: Window, *, anew: bool) -> None:
        """Take what a call brought back; ``anew``: it ran its rows from their first token."""
        self.fired |= record.fired
        for before, kept, values in ((False, bound.after, record.after), (True, bound.before, record.before)):
            for name, capture in kept.items():
                pieces = self.pieces.setdefault((name, before), [])
                if anew:
                    rows = set(window.rows.tolist())
                    pieces[:] = [piece for piece in pieces if not rows.issuperset(piece.window.rows.tolist())]
                pieces.append(Piece(window, capture.selection, values[name]))

    def captured(self, layout: Layout, dtype: torch.dtype, *, before: bool) -> dict[str, Captured]:
        """The captures of the finished rows."""
        found = {}
        for name, bound in (self.binding.before if before else self.binding.after).items():
            pieces = self.pieces.get((name, before), [])
            whole = select(bound.selectors, bound.point, layout, self.texts, model=self.binding.points.model)
            # a site that runs its rows from their first token has every key at every query
            masked = bound.point.site.keeps_masked and not bound.point.site.from_start
            if pieces and not unreachable(whole):
                value = pieces_joined(pieces, bound.selection, whole, layout, masked=masked)
            else:
                sizes = [layout.size(dim) or bound.point.site.sizes.get(dim, 0) for dim in whole.dims]
                zeros = torch.zeros(whole.sizes(sizes), dtype=dtype)
                value = bound.placement.put(never_computed(whole, layout, zeros, masked=masked))
            found[name] = Captured(bound.point, bound.selectors, whole, value, version_of(value))
        return found

    def unreached(self, length: Int[Tensor, "batch"]) -> list[str]:
        """A line for each entry that names positions which no call reached."""
        notes = []
        for entry in self.binding.spec.entries:
            for dim, selector in positions_of(entry):
                late = sorted({at for at in numbers(selector) if at >= int(length.min())})
                if late:
                    notes.append(
                        f"{entry!r}: {dim} {', '.join(map(str, late))} was not reached in every row; they have "
                        f"{', '.join(map(str, length.tolist()))} tokens"
                    )
        return notes


def settled(dim: str, choice: Choice, whole: Layout) -> int:
    """The column from which a choice has all columns of a row, or none of them; of keys, when all have been there."""
    index, present = spread(choice, len(whole.length))
    if dim == "key_pos":
        return int(torch.where(present, index, -1).max()) + 1 if index.numel() else 0
    inside = torch.zeros(len(index), whole.width + 1, dtype=torch.bool)
    inside.scatter_(1, torch.where(present, index, whole.width), True)
    # behind its end a row goes on as it ended
    inside = inside.gather(1, torch.minimum(torch.arange(whole.width), whole.length[:, None] - 1))
    changes = (inside[:, 1:] != inside[:, :-1]).any(0).nonzero()
    return int(changes.max()) + 1 if len(changes) else 0


def positions_of(entry: object) -> Iterator[tuple[str, Selector]]:
    """The selectors of an entry over positions."""
    selectors = entry.selectors if isinstance(entry, Capture) else {}
    if isinstance(entry, Edit):
        selectors = entry.intervention.selectors
    return ((dim, selector) for dim, selector in selectors.items() if dim in POSITION_DIMS)


def numbers(selector: Selector) -> Iterable[int]:
    """The positions that a selector names one by one (or where its slice begins)."""
    if type(selector) is int:
        return (selector,)
    if type(selector) is tuple:
        return selector
    return (selector.start,) if isinstance(selector, slice) and selector.start is not None else ()


def refuse_ends(spec: HookSpec) -> None:
    """Refuse the last generated token, which nobody knows before the end."""
    for entry in spec.entries:
        for dim, selector in positions_of(entry):
            if isinstance(selector, Part) and selector.name == "generated" and selector.pick == "last":
                raise SelectorError(
                    f"{dim}={selector!r} in {entry!r}: which token is the last is known when it has been run. Capture "
                    "GENERATED, and read generation.at(..., pos=GENERATED.last).",
                    dim=dim,
                )


def refuse_across(binding: Binding) -> None:
    """Refuse inserts that look across positions, where no call sees all of them."""
    for insert in binding.inserts:
        if insert.across_positions:
            raise SpecError(
                f"the insert {insert.name!r} looks across positions, and rows are run piece by piece here. Use "
                "model.run, which runs them whole.",
                name=insert.name,
            )


def unreachable(selection: Selection) -> bool:
    """Whether it lies behind everything that can be generated."""
    return any(choice.index.shape[-1] == 0 for choice in selection.choices.values())


def narrow(selection: Selection) -> Selection:
    """A selection without its positions, for rows of a single column."""
    return Selection(
        selection.dims, {dim: choice for dim, choice in selection.choices.items() if dim not in POSITION_DIMS}
    )


GROWING = ("reaches new tokens", "positions that are not there yet", "Narrow it to the prompt with .at(pos=mi.PROMPT)")
IN_PIECES = ("is written piece by piece", "positions in other pieces", "Use model.run, which runs them together")
"""Why values must be the same at every position, what a mean would be over, and what to do instead."""


def check_growing(bound: BoundEdit, one: Layout, why: tuple[str, str, str]) -> None:
    """Refuse values that are not the same at every position, where a call does not see all of them."""
    edit, where = bound.intervention, bound.point.name
    own_mean = isinstance(edit, Mean) and edit.source is None
    held = any(isinstance(getattr(edit, each.name), Source) for each in fields(edit))
    if own_mean or (held and not isinstance(edit, Mean)):
        raise ValueMismatch(
            f"{edit!r} at {where!r} {why[0]}, and takes "
            + (f"the mean of {why[1]}" if own_mean else "its values from a run, by position")
            + f". {why[2]}, or give a tensor that fits every position.",
            point=where,
        )
    if isinstance(edit, Knockout):
        return
    at_one = {dim: Choice(torch.zeros(1, dtype=torch.long)) for dim in bound.point.site.dims if dim in POSITION_DIMS}
    for dim, choice in bound.selection.choices.items():
        if dim == "key_pos":
            at_one[dim] = Choice(torch.zeros(choice.index.shape[-1], dtype=torch.long), drop=choice.drop)
        elif dim in POSITION_DIMS:
            at_one[dim] = replace(at_one[dim], drop=choice.drop)
        else:
            at_one[dim] = choice
    stand_in = Selection(bound.selection.dims, at_one)
    try:
        check_fit(StepEdit(bound.point, edit, stand_in, one, narrow(bound.selection)), one)
    except ValueMismatch as error:
        raise ValueMismatch(
            f"{edit!r} at {where!r} {why[0]}, so its value must be the same at every position (a tensor of "
            f"the dims behind the positions, or of size 1 along them): {error}",
            point=where,
        ) from None
