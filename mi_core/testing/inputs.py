"""Split inputs: what one head, or the channel part, reads of the stream apart from all else."""

from __future__ import annotations

from hypothesis import strategies as st
from torch import Tensor

from mi_core.interventions import Noise, Replace
from mi_core.names import Point
from mi_core.run import Run
from mi_core.spec import capture, intervene
from mi_core.testing.effort import for_examples
from mi_core.testing.expecting import expect, expect_equal, largest
from mi_core.testing.strategies import Prompt, points, prompts, seeds
from mi_core.testing.subject import Subject

__all__ = ["check_heads_read_their_own_inputs", "check_mlps_read_their_own_input", "heads_read_apart"]

PROJECTIONS = ("attn.hook_q", "attn.hook_k", "attn.hook_v")
READ_BY = {
    "hook_attn_in": PROJECTIONS,
    "hook_q_input": ("attn.hook_q",),
    "hook_k_input": ("attn.hook_k",),
    "hook_v_input": ("attn.hook_v",),
}
"""What is made of each input."""


def heads_read_apart(subject: Subject) -> bool:
    """It applies where what a head reads can be written for that head alone."""
    return bool(subject.sites.intersection(READ_BY))


def moved(subject: Subject, prompt: Prompt, stream: str, reads: list[str], seed: int) -> Run:
    """A run with another stream at one point, and what is made of it."""
    return subject.run(prompt, intervene(stream, Noise(1.0, seed=seed)) + capture([stream, *reads]))


def check_heads_read_their_own_inputs(subject: Subject) -> None:
    """An input is the stream; written for one head, that head alone reads it, as if it were the stream."""

    @st.composite
    def cases(draw: st.DrawFn) -> tuple[Prompt, Point, int]:
        point = draw(points([point for point in subject.points if point.site.name in READ_BY]))
        return draw(prompts(subject)), point, draw(st.integers(0, point.site.sizes[point.site.dims[2]] - 1))

    def holds(case: tuple[Prompt, Point, int], seed: int) -> None:
        prompt, point, head = case
        layer = f"blocks.{point.layer}."
        stream, made = layer + "hook_resid_pre", [layer + site for site in PROJECTIONS]
        asked = capture([stream, point.name, *made])
        base, other, call = subject.run(prompt, asked), moved(subject, prompt, stream, made, seed), prompt.call(asked)
        copies = base[stream].unsqueeze(2).expand_as(base[point.name])
        expect_equal(base[point.name], copies, f"{point.name} is not {stream}", call=call, tolerance=subject.tolerance)
        write = Replace(other[stream].unsqueeze(2)).at(**{point.site.dims[2]: head})
        spec = intervene(point.name, write) + capture(made)
        run, call = subject.run(prompt, spec), prompt.call(spec)
        for site, name in zip(PROJECTIONS, made, strict=True):
            reached = site in READ_BY[point.site.name]
            wanted = base[name].clone()
            if reached:
                wanted[:, :, head] = other[name][:, :, head]
                changed(wanted, base[name], f"{name} of head {head} does not depend on {stream}.", call)
            what = f"{name} is not what head {head} of {point.name} alone makes of another stream"
            expect_equal(run[name], wanted, what, call=call, tolerance=subject.tolerance)

    for_examples(holds, case=cases(), seed=seeds())


def check_mlps_read_their_own_input(subject: Subject) -> None:
    """The channel part's input is the stream; written, the channel part reads it, and the stream stays."""

    def holds(prompt: Prompt, point: Point, seed: int) -> None:
        layer = f"blocks.{point.layer}."
        names = {other.name for other in subject.points}
        stream = next(name for name in (f"{layer}hook_resid_mid", f"{layer}hook_resid_pre") if name in names)
        out = f"{layer}hook_mlp_out"
        asked = capture([stream, point.name, out])
        base, other, call = subject.run(prompt, asked), moved(subject, prompt, stream, [out], seed), prompt.call(asked)
        tolerance = subject.tolerance
        expect_equal(base[point.name], base[stream], f"{point.name} is not {stream}", call=call, tolerance=tolerance)
        spec = intervene(point.name, Replace(other[stream])) + capture([stream, out])
        run, call = subject.run(prompt, spec), prompt.call(spec)
        changed(other[out], base[out], f"{out} does not depend on {stream}.", call)
        what = f"{out} is not what {point.name} makes of another stream"
        expect_equal(run[out], other[out], what, call=call, tolerance=tolerance)
        what = f"a write to {point.name} changed {stream}"
        expect_equal(run[stream], base[stream], what, call=call, tolerance=tolerance)

    inputs = [point for point in subject.points if point.site.name == "hook_mlp_in"]
    for_examples(holds, prompt=prompts(subject), point=points(inputs), seed=seeds())


def changed(value: Tensor, base: Tensor, what: str, call: str) -> None:
    """Whether a value differs from what it is in the plain run."""
    difference = largest(value - base)
    expect(difference > 1e-6, what, seen=f"moved by {difference:.3g}", wanted="more", call=call)
