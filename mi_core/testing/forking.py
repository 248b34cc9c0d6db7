"""Least work: going on from a base run, sweeping, and computing only the last column give what full runs give."""

from __future__ import annotations

import functools

from hypothesis import strategies as st

from mi_core.interventions import Noise
from mi_core.metrics import logit
from mi_core.names import Point
from mi_core.run import Run
from mi_core.spec import HookSpec, capture, intervene
from mi_core.testing.effort import for_examples
from mi_core.testing.expecting import expect_equal
from mi_core.testing.strategies import Prompt, points, prompts, seeds, several
from mi_core.testing.subject import Subject

__all__ = [
    "check_going_on_equals_the_full_run",
    "check_last_logits_are_the_last_of_all",
    "check_sweeps_equal_the_loop",
]


def edit_at(point: Point, seed: int, last: bool) -> HookSpec:
    """Noise at a point, everywhere or at each row's last token: the same noise however it is packed."""
    return intervene(point.name, Noise(1.0, seed=seed).at(**at_last(point, last)))


def at_last(point: Point, last: bool) -> dict[str, int]:
    """The selector of each row's last token, where that is wanted and the point has positions."""
    dim = next((d for d in point.site.dims if d in ("pos", "query_pos")), None)
    return {dim: -1} if last and dim else {}


def check_going_on_equals_the_full_run(subject: Subject) -> None:
    """``base.resume(spec)`` gives what the full run with ``spec`` gives: logits and captures."""

    @functools.lru_cache(maxsize=1)  # one prompt is tried at every site
    def base(prompt: Prompt) -> Run:
        return subject.run(prompt, resumable=True)

    def holds(prompt: Prompt, point: Point, read: list[Point], seed: int, last: bool) -> None:
        # what is read everywhere must be computed everywhere: only slices let a run begin late
        captures = (capture(p.name).at(**at_last(p, last)) for p in read)
        spec = sum(captures, edit_at(point, seed, last))
        full = subject.run(prompt, spec)
        resumed = base(prompt).resume(spec)
        call = f"model.run({prompt!r}, resumable=True).resume({spec!r})"
        for name in (*full, "logits"):
            seen, wanted = (r.logits if name == "logits" else r[name] for r in (resumed, full))
            what = f"{name} of a run that goes on from another differs from the full run"
            expect_equal(seen, wanted, what, call=call, tolerance=subject.tolerance)

    prompt = Prompt.of([subject.longest] * 2, subject.model.shape)
    for_examples(
        holds,
        always=[
            {"prompt": prompt, "point": point, "read": [point], "seed": 0, "last": True}
            for point in subject.one_of_each(subject.writable)
        ],
        prompt=prompts(subject),
        point=points(subject.writable),
        read=several(subject.points),
        seed=seeds(),
        last=st.booleans(),
    )


def check_sweeps_equal_the_loop(subject: Subject) -> None:
    """A sweep of several edits gives each the metric that its own full run has."""

    def holds(prompt: Prompt, edited: list[Point], seed: int, last: bool, tokens: int) -> None:
        # every other edit is at the last tokens only, so that cells begin at different columns
        specs = [edit_at(point, seed, last == bool(cell % 2)) for cell, point in enumerate(edited)]
        token = seed % subject.model.shape.d_vocab
        swept = subject.model.sweep(
            prompt.ids, specs, logit(token), attention_mask=prompt.mask, batch=tokens, progress=False
        )
        for cell, spec in enumerate(specs):
            expect_equal(
                swept.values[cell],
                subject.run(prompt, spec).last_logits[:, token].float().cpu(),
                f"cell {cell} of a sweep differs from the full run",
                call=f"model.sweep({prompt!r}, {specs!r}, mi.logit({token}), batch={tokens})",
                tolerance=subject.tolerance,
            )

    for_examples(
        holds,
        prompt=prompts(subject),
        edited=several(subject.writable),
        seed=seeds(),
        last=st.booleans(),
        tokens=st.integers(1, 64),
    )


def check_last_logits_are_the_last_of_all(subject: Subject) -> None:
    """``logits="last"`` gives each row's last logits, though the last layer may compute only them."""

    def holds(prompt: Prompt) -> None:
        whole = subject.run(prompt)
        last = subject.run(prompt, logits="last")
        what = 'the logits of logits="last" are not the last of all'
        expect_equal(
            last.logits[:, 0], whole.last_logits, what, call=prompt.call(logits="last"), tolerance=subject.tolerance
        )

    for_examples(holds, prompt=prompts(subject))
