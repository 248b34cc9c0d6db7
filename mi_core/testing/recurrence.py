"""Recurrence: the state is all that a layer keeps of its past, in whatever way it is computed.

Source: Katharopoulos et al. 2020, "Transformers are RNNs" (arXiv:2006.16236), for the two forms of one recurrence.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from hypothesis import strategies as st
from torch import Tensor

from mi_core.carrying import carried
from mi_core.edges import Knockout
from mi_core.interventions import Add, Replace, Zero
from mi_core.memory import ModelMemory
from mi_core.names import Point
from mi_core.run import Run
from mi_core.spec import capture, intervene
from mi_core.testing.effort import for_examples
from mi_core.testing.expecting import expect_equal
from mi_core.testing.strategies import Prompt, points, prompts, seeds
from mi_core.testing.subject import Subject

__all__ = [
    "check_carried_values_are_the_prefix",
    "check_effective_attention_reads_the_values",
    "check_steps_equal_the_whole",
    "check_write_gates_close",
    "is_recurrent",
    "states_are_written",
]

STATE: Final = "mixer.hook_state"
GATE: Final = "mixer.hook_write_gate"
PATTERN: Final = "mixer.hook_effective_attn"
VALUES: Final = "mixer.hook_v"
READ: Final = "mixer.hook_wkv"
LONG: Final = 34
"""Tokens: more than a chunk of a kernel usually has, where the model takes as many."""


def is_recurrent(subject: Subject) -> bool:
    """Whether every layer keeps its past in a state, and in nothing else that has no name."""
    layers = {point.layer for point in subject.points if point.site.name == STATE}
    return subject.model.shape.causal and layers == set(range(subject.depth))


def states_are_written(subject: Subject) -> bool:
    """Whether they can be, in every layer."""
    return is_recurrent(subject) and not any(point.site.read_only for point in of(subject, STATE))


def of(subject: Subject, site: str) -> list[Point]:
    """A site's points."""
    return [point for point in subject.points if point.site.name == site]


def check_carried_values_are_the_prefix(subject: Subject) -> None:
    """With another run's state and shifts behind a position, everything later is as after that run's prefix."""
    names = carried(model=subject.model)

    def holds(tokens: int, at: int, seed: int) -> None:
        at = min(at, tokens - 2)
        ids, other = (Prompt.of([tokens] * 2, subject.model.shape, seed=seed + i).ids for i in (0, 1))
        mixed = torch.cat((other[:, : at + 1], ids[:, at + 1 :]), 1)
        given = subject.run(Prompt(other), capture(names), logits=None)
        spec = intervene(names, Replace(given).at(pos=at))
        patched, wanted = subject.run(Prompt(ids), spec), subject.run(Prompt(mixed))
        what = f"with what a run of {other.tolist()} carries past position {at}, the logits behind it are another's"
        expect_equal(
            patched.logits[:, at + 1 :],
            wanted.logits[:, at + 1 :],
            what,
            call=Prompt(ids).call(f"intervene({names}, Replace(run).at(pos={at}))"),
            tolerance=subject.tolerance,
        )

    length = st.integers(2, max(2, subject.longest))
    for_examples(holds, tokens=length, at=st.integers(0, subject.longest), seed=seeds())


def check_effective_attention_reads_the_values(subject: Subject) -> None:
    """Effective attention times values is what is read, and a cut edge takes its own product away."""

    def holds(prompt: Prompt, point: Point, query: int, key: int) -> None:
        layer = f"blocks.{point.layer}."
        read = capture([layer + site for site in (PATTERN, VALUES, READ)])
        run = subject.run(prompt, read, logits=None)
        whole = product(run[point.name], run[layer + VALUES], point)
        call = prompt.call(read)
        same = run[layer + READ] * prompt.real[..., None, None]
        what = f"{point.name} times {VALUES} is not {READ}"
        expect_equal(whole, same, what, call=call, tolerance=subject.tolerance)
        query, key = query % prompt.shortest, key % prompt.shortest
        cut = intervene(point.name, Knockout(query=query, key=key))
        seen = subject.run(prompt, cut + capture(layer + READ), logits=None)[layer + READ]
        only = torch.zeros_like(run[point.name])
        for row, columns in enumerate(prompt.columns):
            only[row, :, columns[query], columns[key]] = run[point.name][row, :, columns[query], columns[key]]
        left = run[layer + READ] - product(only, run[layer + VALUES], point)
        what = f"with query {query} cut off from key {key}, {READ} is not what the other keys give"
        expect_equal(seen, left, what, call=prompt.call(cut), tolerance=subject.tolerance)

    place = st.integers(0, 99)
    for_examples(holds, prompt=prompts(subject), point=points(of(subject, PATTERN)), query=place, key=place)


def product(pattern: Tensor, values: Tensor, point: Point) -> Tensor:
    """Weights of each head, or of each channel, times values."""
    by_head = point.site.dims[1] == "head"
    return torch.einsum("bhqk,bkhd->bqhd" if by_head else "bcqk,bkhc->bqhc", pattern, values.to(pattern.dtype))


def check_write_gates_close(subject: Subject) -> None:
    """A gate of one changes nothing; behind a gate of zero nothing that the token would write is ever read."""

    def holds(prompt: Prompt, point: Point, at: int, seed: int) -> None:
        layer, at = f"blocks.{point.layer}.", at % prompt.shortest
        open_ = intervene(point.name, Replace(1.0))
        whole = subject.run(prompt)
        what = "with every write gate at one, the logits change"
        expect_equal(subject.run(prompt, open_).logits, whole.logits, what, call=prompt.call(open_))
        closed = intervene(point.name, Zero().at(pos=at)) + capture(layer + READ)
        draw = torch.Generator().manual_seed(seed)
        values = subject.model.hook_points(layer + VALUES)[0].site
        noise = torch.randn([values.sizes[dim] for dim in values.dims[2:]], generator=draw)
        other = intervene(layer + VALUES, Add(noise).at(pos=at)) + closed
        runs = [subject.run(prompt, spec, logits=None)[layer + READ] for spec in (closed, other)]
        for row, columns in enumerate(prompt.columns):
            later = columns[at + 1 :]
            what = f"the write gate at position {at} is zero, and {READ} depends on the value there"
            seen, wanted = runs[1][row, later], runs[0][row, later]
            expect_equal(seen, wanted, what, call=prompt.call(other), tolerance=subject.tolerance)

    for_examples(holds, prompt=prompts(subject), point=points(of(subject, GATE)), at=st.integers(0, 99), seed=seeds())


def check_steps_equal_the_whole(subject: Subject) -> None:
    """Token by token, each from the memory of those before, gives what all tokens at once give."""
    tokens = min(subject.model.shape.n_ctx or LONG, LONG)

    def holds(seed: int) -> None:
        prompt = Prompt.of([tokens], subject.model.shape, seed=seed)
        whole = subject.run(prompt)
        memory: ModelMemory | None = None
        steps: list[Tensor] = []
        for column in range(tokens):
            options: dict[str, Any] = {} if memory is None else {"memory": memory}
            run: Run = subject.run(Prompt(prompt.ids[:, column : column + 1]), resumable=True, **options)
            memory = run.memory()
            steps.append(run.logits)
        what = f"the logits of {tokens} tokens, one at a time, differ from those of all at once"
        expect_equal(torch.cat(steps, 1), whole.logits, what, call=prompt.call(), tolerance=subject.tolerance)

    for_examples(holds, seed=seeds())
