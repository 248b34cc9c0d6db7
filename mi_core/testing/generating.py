"""Generation: each step, from what is remembered, gives what a full run of the tokens so far gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from hypothesis import strategies as st

from mi_core.generation import Generation
from mi_core.interventions import Scale
from mi_core.names import Point
from mi_core.positions import GENERATED, PROMPT
from mi_core.run import Run
from mi_core.spec import HookSpec, capture, intervene
from mi_core.testing.effort import for_examples
from mi_core.testing.expecting import expect, expect_equal
from mi_core.testing.strategies import Prompt, points, prompts, several
from mi_core.testing.subject import Subject

__all__ = ["check_generation_equals_full_runs", "room_to_write"]

NEW: Final = 3
"""Tokens that are generated: the last two from what a step that was itself remembered left."""

PARTS: Final[Mapping[str, tuple[Any, Callable[[int, int], range]]]] = {
    "everywhere": (slice(None), lambda _prompt, now: range(now)),
    "prompt": (PROMPT, lambda prompt, _now: range(prompt)),
    "last": (-1, lambda prompt, _now: range(prompt - 1, prompt)),
    "generated": (GENERATED, lambda prompt, now: range(prompt, now)),
    "onwards": (slice(-1, None), lambda prompt, now: range(prompt - 1, now)),
}
"""Where an edit acts: the selector in a generation, and the same positions of ``now`` tokens."""


def room_to_write(subject: Subject) -> bool:
    """It applies where a position sees no later one and a prompt leaves room for new tokens."""
    shape = subject.model.shape
    return shape.causal and shape.numbers is None and (shape.n_ctx is None or shape.n_ctx > NEW)


def check_generation_equals_full_runs(subject: Subject) -> None:
    """Each new token has the logits of a full run of the tokens before it, under the same edits; captures too."""

    def holds(prompt: Prompt, point: Point, read: list[Point], part: str, cache: bool) -> None:
        dim = column(point)
        selector, reached = PARTS[part]
        captures = capture([other.name for other in read])
        spec = intervene(point.name, Scale(0.5).at(**{dim: selector})) + captures
        made = subject.model.generate(
            prompt.ids, spec, max_new_tokens=NEW, stop_at_eos=False, cache=cache, attention_mask=prompt.mask
        )
        call = f"model.generate({prompt!r}, {spec!r}, max_new_tokens={NEW}, cache={cache})"
        for step in range(NEW + 1):
            rows = [row + new[:step] for row, new in zip(prompt.rows, made.new_tokens, strict=True)]
            edits = HookSpec()
            for row, tokens in enumerate(rows):
                places = list(reached(len(tokens) - step, len(tokens)))
                edits += intervene(point.name, Scale(0.5).at(batch=row, **{dim: places})) if places else HookSpec()
            full = subject.run(Prompt.packed(rows), edits + captures)
            if step == NEW:
                compare_captures(subject, made, full, call)
                return
            what = f"the logits of new token {step} are not those of a full run of the tokens before it"
            expect_equal(made.logits[:, step], full.last_logits, what, call=call, tolerance=subject.tolerance)
            best = full.last_logits.amax(-1)
            taken = full.last_logits[range(len(rows)), [new[step] for new in made.new_tokens]]
            expect_equal(taken, best, f"new token {step} is not the likeliest", call=call, tolerance=subject.tolerance)

    for_examples(
        holds,
        always=always(subject),
        prompt=prompts(subject, longest=subject.longest - NEW),
        point=points([point for point in subject.writable if column(point)]),
        read=several(subject.points),
        part=st.sampled_from(sorted(PARTS)),
        cache=st.booleans(),
    )


def column(point: Point) -> str:
    """The dim of the tokens that are run; empty where a point has none."""
    return next((dim for dim in point.site.dims if dim in ("pos", "query_pos")), "")


def always(subject: Subject) -> Iterator[dict[str, Any]]:
    """Rows of unequal lengths, a cache, an edit at the stream of new tokens: what is tried whatever is drawn."""
    streams = [point for point in subject.writable if point.site.name == "hook_resid_post"]
    longest = max(1, subject.longest - NEW)
    prompt = Prompt.of([longest, 1], subject.model.shape, layout="left")
    for point in streams[:1]:
        yield {"prompt": prompt, "point": point, "read": streams[-1:], "part": "onwards", "cache": True}


def compare_captures(subject: Subject, made: Generation, full: Run, call: str) -> None:
    """What was captured of every token, in the layout that both have: rows padded on the right."""
    expect(list(made) == list(full), "other points were captured.", seen=list(made), wanted=list(full), call=call)
    for name in full:
        what = f"{name} of the generation is not that of a full run of all tokens"
        expect_equal(made[name], full[name], what, call=call, tolerance=subject.tolerance)
