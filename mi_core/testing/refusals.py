"""What cannot be done is refused before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import torch

from mi_core.errors import CheckFailed, ReadOnlyPoint, SelectorError, SpecError, UnknownPoint, ValueMismatch
from mi_core.interventions import Replace, Zero
from mi_core.layout import POSITION_DIMS
from mi_core.names import Point
from mi_core.spec import HookSpec, capture, intervene
from mi_core.testing.effort import for_examples
from mi_core.testing.expecting import expect
from mi_core.testing.strategies import Prompt, points, prompts, seeds
from mi_core.testing.subject import Subject
from mi_core.testing.watching import Counting

__all__ = ["check_mistakes_are_refused_before_anything_runs"]

Mistake: TypeAlias = tuple[str, HookSpec, type[SpecError]]
"""What is wrong, a spec with it, and the error that refuses it."""


def check_mistakes_are_refused_before_anything_runs(subject: Subject) -> None:
    """An unknown point, layer, selector, dimension or shape, and a write to a read-only point, run nothing."""
    counting = Counting(subject.model.backend)
    watched = subject.around(counting)

    def refused(prompt: Prompt, what: str, spec: HookSpec, error: type[SpecError]) -> None:
        check_refused(watched, prompt, what, spec, error)
        ran = f"{what} is refused only after something has run."
        expect(counting.calls == 0, ran, seen=counting.calls, wanted=0, call=prompt.call(spec))

    def holds(prompt: Prompt, point: Point, seed: int) -> None:
        for mistake in mistakes_at(point, prompt, seed):
            refused(prompt, *mistake)

    prompt = Prompt.of([min(3, subject.longest)] * 2, subject.model.shape)
    for mistake in mistakes_of_names(subject):
        refused(prompt, *mistake)
    always = [{"prompt": prompt, "point": p, "seed": 0} for p in subject.one_of_each(subject.points)]
    for_examples(holds, always=always, prompt=prompts(subject), point=points(subject.points), seed=seeds())


def check_refused(subject: Subject, prompt: Prompt, what: str, spec: HookSpec, error: type[SpecError]) -> None:
    """One mistake, refused with the right error that names it."""
    call = prompt.call(spec)
    try:
        subject.run(prompt, spec)
    except error as refused:
        told = str(refused)
        clear = any(part in told for part in named_in(spec))
        expect(clear, f"{what} is refused without naming it.", seen=told, wanted=named_in(spec), call=call)
    except Exception as refused:
        raise CheckFailed(
            f"{what} is refused with the wrong error.\n  seen:   {type(refused).__name__}: {refused}\n"
            f"  wanted: {error.__name__}, before anything runs\n  call:   {call}"
        ) from refused
    else:
        raise CheckFailed(f"{what} is not refused.\n  wanted: {error.__name__}\n  call:   {call}")


def named_in(spec: HookSpec) -> list[str]:
    """The names that a spec asks for."""
    return [name for entry in spec.entries for name in getattr(entry, "points", ())]


def mistakes_of_names(subject: Subject) -> Iterator[Mistake]:
    """Specs that must be refused whatever the model has."""
    yield "an unknown layer", capture(f"blocks.{subject.depth}.hook_resid_pre"), UnknownPoint
    yield "a pattern that matches nothing", capture("blocks.*.hook_nothing_at_all"), UnknownPoint


def mistakes_at(point: Point, prompt: Prompt, seed: int) -> Iterator[Mistake]:
    """Specs that must be refused at a point."""
    name, dims = point.name, point.site.dims
    dim = dims[seed % len(dims)]
    size = point.site.sizes.get(dim, len(prompt.ids) if dim == "batch" else max(map(len, prompt.columns)))
    yield "an unknown point", capture(f"{name}_that_is_not_there"), UnknownPoint
    yield f"{dim}={size} (it has {size})", capture(name).at(**{dim: size}), SelectorError
    yield f"{dim}={-size - 1} (it has {size})", capture(name).at(**{dim: [-size - 1]}), SelectorError
    yield "a dim that the site lacks", capture(name).at(no_such_dim=0), SelectorError
    if point.site.read_only:
        yield "a write to a read-only point", intervene(name, Zero()), ReadOnlyPoint
        return
    yield f"a write at {dim}={size}", intervene(name, Zero().at(**{dim: size})), SelectorError
    # no dim has a size of 97 and one of 89
    yield "a value of another shape", intervene(name, Replace(torch.zeros(97, 89))), ValueMismatch
    last = [d for d in dims if d not in POSITION_DIMS and d != "batch"][-1:]
    if last and last[0] == dims[-1] and point.site.sizes[last[0]] > 1:
        yield (
            "a value that is too short",
            intervene(name, Replace(torch.zeros(point.site.sizes[last[0]] - 1))),
            ValueMismatch,
        )
