"""Runs leave nothing behind, and can be kept."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import torch
from hypothesis import strategies as st
from torch import Tensor

from mi_core.errors import CheckFailed
from mi_core.interventions import Apply, Noise, Replace
from mi_core.names import Point
from mi_core.run import Run
from mi_core.spec import capture, intervene
from mi_core.testing.effort import for_examples
from mi_core.testing.expecting import expect, expect_equal
from mi_core.testing.strategies import Prompt, drawn_inputs, points, prompts, seeds, several
from mi_core.testing.subject import Subject

__all__ = [
    "check_a_failing_run_leaves_nothing_behind",
    "check_runs_do_not_depend_on_earlier_runs",
    "check_saved_runs_come_back",
    "check_values_from_runs_equal_tensors",
]


STREAM = capture("blocks.*.hook_resid_post")
"""What is compared between runs: what was different anywhere shows in the stream."""


class Provoked(Exception):
    """What the failing run fails with."""


def fail(_: Tensor) -> Tensor:
    """An intervention that fails."""
    raise Provoked


def check_a_failing_run_leaves_nothing_behind(subject: Subject) -> None:
    """After a run in which an intervention raised, the same run as before gives the same, bit for bit."""

    @functools.lru_cache(maxsize=1)  # one prompt is tried at every site
    def before(prompt: Prompt) -> Run:
        return subject.run(prompt, STREAM)

    def holds(prompt: Prompt, point: Point) -> None:
        spec = intervene(point.name, Apply(fail))
        before(prompt)
        try:
            subject.run(prompt, spec)
        except Provoked:
            pass
        else:
            raise CheckFailed(
                f"the error of an intervention at {point.name} was swallowed.\n  call:   {prompt.call(spec)}"
            )
        what = f"a run that failed at {point.name} changed the next one's"
        same(before(prompt), subject.run(prompt, STREAM), what, prompt)

    prompt = Prompt.of([min(3, subject.longest)], subject.model.shape)
    always = [{"prompt": prompt, "point": point} for point in subject.one_of_each(subject.writable)]
    for_examples(holds, always=always, prompt=prompts(subject), point=points(subject.writable))


def check_runs_do_not_depend_on_earlier_runs(subject: Subject) -> None:
    """The same run gives the same, bit for bit, whatever ran in between: other rows, writes, gradients, memory."""

    def holds(prompt: Prompt, other: Prompt, point: Point, seed: int) -> None:
        before = subject.run(prompt, STREAM)
        edit = intervene(point.name, Noise(1.0, seed=seed))
        subject.run(other, edit + capture("*"), grad=True)
        subject.run(other, edit, resumable=True)
        subject.run(prompt, edit)
        same(before, subject.run(prompt, STREAM), "runs in between changed the", prompt)

    for_examples(holds, prompt=prompts(subject), other=prompts(subject), point=points(subject.writable), seed=seeds())


def same(before: Run, after: Run, what: str, prompt: Prompt) -> None:
    """Two runs with the same logits and captures."""
    call = prompt.call(STREAM)
    expect_equal(after.logits, before.logits, f"{what} logits", call=call)
    for name in before:
        expect_equal(after[name], before[name], f"{what} {name}", call=call)


def check_saved_runs_come_back(subject: Subject) -> None:
    """A run that was saved and loaded has the same logits, activations, tokens and receipt."""

    def holds(prompt: Prompt, read: list[Point]) -> None:
        spec = capture([point.name for point in read])
        run = subject.run(prompt, spec)
        with tempfile.TemporaryDirectory() as folder:
            run.save(Path(folder) / "run.safetensors")
            again = Run.load(Path(folder) / "run.safetensors")
        call = f"Run.load(...) of {prompt.call(spec)}"
        expect(
            list(again) == list(run), "a loaded run holds other points.", seen=list(again), wanted=list(run), call=call
        )
        for name in run:
            expect_equal(again[name], run[name].cpu(), f"a loaded run has another {name}", call=call)
        for what in ("logits", "tokens", "mask"):
            seen, wanted = getattr(again, what), getattr(run, what)
            expect_equal(seen, wanted.cpu(), f"a loaded run has other {what}", call=call)
        what = "a loaded run has another receipt."
        expect(again.receipt == run.receipt, what, seen=again.receipt, wanted=run.receipt, call=call)

    for_examples(holds, prompt=prompts(subject), read=several(subject.points))


def check_values_from_runs_equal_tensors(subject: Subject) -> None:
    """Writing a run ("the same point, the same selection, of that run") is writing that run's tensor."""

    def holds(prompt: Prompt, point: Point, seed: int, one: bool) -> None:
        other = Prompt(
            drawn_inputs(subject.model.shape, prompt.ids.shape, torch.Generator().manual_seed(seed)),
            prompt.mask,
        )
        source = subject.run(other, capture(point.name), logits=None)
        dim = next((d for d in point.site.dims if d in ("pos", "query_pos")), None)
        where = {dim: -1} if one and dim else {}
        by_run = intervene(point.name, Replace(source).at(**where)) + capture(point.name)
        by_hand = intervene(point.name, Replace(source[point.name]).at(**where)) + capture(point.name)
        a, b = subject.run(prompt, by_run), subject.run(prompt, by_hand)
        what = f"a run as a value at {point.name} does not do what its tensor does"
        expect_equal(a.logits, b.logits, f"{what}: logits", call=prompt.call(by_run))
        expect_equal(a[point.name], b[point.name], f"{what}: the point itself", call=prompt.call(by_run))

    for_examples(holds, prompt=prompts(subject), point=points(subject.writable), seed=seeds(), one=st.booleans())
