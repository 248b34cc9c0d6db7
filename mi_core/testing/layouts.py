"""Batches: a row gives the same alone, in a batch, under any padding, in any chunk."""

from __future__ import annotations

import dataclasses

import torch
from hypothesis import strategies as st

from mi_core.interventions import Noise
from mi_core.names import Point
from mi_core.spec import capture, intervene
from mi_core.testing.effort import for_examples
from mi_core.testing.expecting import expect_equal, expect_zero, largest
from mi_core.testing.strategies import LAYOUTS, Prompt, drawn_inputs, points, prompts, seeds, several
from mi_core.testing.subject import Subject
from mi_core.testing.watching import batch_of, watched

__all__ = [
    "check_chunks_equal_the_whole",
    "check_noise_depends_on_seed_row_and_position",
    "check_padding_is_never_looked_at",
    "check_rows_in_a_batch_equal_rows_alone",
]


def check_rows_in_a_batch_equal_rows_alone(subject: Subject) -> None:
    """A row gives the same logits and activations alone and in a batch, padded left, right or anywhere; pads read 0."""

    def holds(prompt: Prompt, read: list[Point]) -> None:
        spec = capture([point.name for point in read])
        batch, call = subject.run(prompt, spec), prompt.call(spec)
        for row in range(len(prompt.ids)):
            alone = subject.run(prompt.row(row), spec)
            for name in (*batch, "logits"):
                dims = ("batch", "pos", "d_vocab") if name == "logits" else subject.model.points.find(name).site.dims
                value, wanted = (run.logits if name == "logits" else run[name] for run in (batch, alone))
                what = f"{name} of row {row} differs from that of the row alone, {prompt.rows[row]}"
                seen = prompt.take(value, dims, row)
                expect_equal(seen, wanted, what, call=call, tolerance=subject.tolerance)
                if dims[1] == "pos":
                    pads = ~prompt.real[row].to(value.device)
                    expect_zero(value[row][pads], f"{name} of row {row} at the pads", call=call)

    lengths, shape = [2, min(5, subject.longest)], subject.model.shape
    whole = [point for point in subject.points if not point.site.on_demand]
    always = [{"prompt": Prompt.of(lengths, shape, layout=layout, extra=1), "read": whole} for layout in LAYOUTS[1:]]
    for_examples(holds, always=always, prompt=prompts(subject, rows=(2, 3)), read=several(subject.points))


def check_padding_is_never_looked_at(subject: Subject) -> None:
    """Whatever ids lie behind a row's tokens, nothing at its tokens changes, bit for bit."""

    def holds(prompt: Prompt, seed: int) -> None:
        batch = batch_of(subject, prompt)
        columns = torch.arange(batch.inputs.shape[1], device=batch.inputs.device)
        behind = columns >= batch.length[:, None]
        draw = torch.Generator().manual_seed(seed)
        others = drawn_inputs(subject.model.shape, batch.inputs.shape, draw).to(behind.device)
        inputs = batch.inputs.clone()
        inputs[behind] = others[behind]
        changed = dataclasses.replace(batch, inputs=inputs, shared={})
        (one, seen), (other, again) = watched(subject, batch), watched(subject, changed)
        assert one.logits is not None
        assert other.logits is not None
        call = f"ids {changed.inputs.tolist()} for {batch.inputs.tolist()}, lengths {batch.length.tolist()}"
        what = "the ids behind a row's tokens change its"
        expect_equal(other.logits[~behind], one.logits[~behind], f"{what} logits", call=call)
        for point in subject.points:
            axis = next((i for i, dim in enumerate(point.site.dims) if dim in ("pos", "query_pos")), None)
            if axis is not None and point.site.dims[0] == "batch":
                a, b = (value[point.name].movedim(axis, 1)[~behind] for value in (again.values, seen.values))
                expect_equal(a, b, f"{what} {point.name}", call=call)

    for_examples(holds, prompt=prompts(subject, rows=(2, 3), layouts=LAYOUTS[1:]), seed=seeds())


@st.composite
def noisy(draw: st.DrawFn, subject: Subject) -> tuple[Prompt, Point, int, bool]:
    """A prompt of several rows, a point to add noise to, its seed, and whether one position only gets it."""
    return (
        draw(prompts(subject, rows=(2, 3))),
        draw(points([p for p in subject.writable if "pos" in p.site.dims and p.site.dims[0] == "batch"])),
        draw(seeds()),
        draw(st.booleans()),
    )


def check_chunks_equal_the_whole(subject: Subject) -> None:
    """``batch_tokens`` runs the rows in chunks, and changes nothing: logits, captures, interventions."""

    def holds(case: tuple[Prompt, Point, int, bool], tokens: int) -> None:
        prompt, point, seed, one = case
        edit = Noise(0.5, seed=seed).at(pos=-1) if one else Noise(0.5, seed=seed)
        end = f"blocks.{subject.depth - 1}.hook_resid_post" if subject.depth else point.name
        spec = intervene(point.name, edit) + capture([point.name, end])
        whole, parts = subject.run(prompt, spec), subject.run(prompt, spec, batch_tokens=tokens)
        call = prompt.call(spec, batch_tokens=tokens)
        what = "chunks of rows change the logits"
        expect_equal(parts.logits, whole.logits, what, call=call, tolerance=subject.tolerance)
        for name in whole:
            what = f"chunks of rows change {name}"
            expect_equal(parts[name], whole[name], what, call=call, tolerance=subject.tolerance)

    for_examples(holds, case=noisy(subject), tokens=st.integers(1, 2 * subject.longest))


def check_noise_depends_on_seed_row_and_position(subject: Subject) -> None:
    """Noise is a function of seed, row, real position and element: padding and other rows do not change it."""

    def holds(case: tuple[Prompt, Point, int, bool]) -> None:
        prompt, point, seed, one = case
        dims = point.site.dims
        edit = Noise(1.0, seed=seed).at(pos=0) if one else Noise(1.0, seed=seed)
        spec = intervene(point.name, edit) + capture(point.name)
        # the same rows in another layout, with a longer one behind them
        more = Prompt.packed([*prompt.rows, *Prompt.of([subject.longest], subject.model.shape).rows])
        added = []
        for given in (prompt, more):
            base = subject.run(given, capture(point.name), logits=None)[point.name]
            added.append(subject.run(given, spec, logits=None)[point.name] - base)
        for row in range(len(prompt.ids)):
            what = f"the noise at {point.name} in row {row} depends on padding or on other rows"
            seen, wanted = prompt.take(added[0], dims, row), more.take(added[1], dims, row)
            # what is left of the sum, once the activation is taken off again
            slack = subject.tolerance * max(1.0, largest(base))
            expect_equal(seen, wanted, what, call=prompt.call(spec), tolerance=slack)

    for_examples(holds, case=noisy(subject))
