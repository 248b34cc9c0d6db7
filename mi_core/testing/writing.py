"""Writes: what is written back changes nothing, what is changed arrives, and nothing before it moves."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from mi_core.interventions import Add, Noise, Replace, Scale
from mi_core.layout import POSITION_DIMS
from mi_core.names import Point
from mi_core.run import Run
from mi_core.spec import HookSpec, capture, intervene
from mi_core.testing.effort import for_examples
from mi_core.testing.expecting import expect, expect_equal, largest
from mi_core.testing.strategies import Prompt, points, prompts, seeds
from mi_core.testing.subject import Subject

__all__ = [
    "check_earlier_layers_are_untouched",
    "check_earlier_positions_are_untouched",
    "check_interventions_compose_in_order",
    "check_writable_points_are_live",
    "check_writing_back_changes_nothing",
]

ENDS = ("hook_embed", "hook_resid_pre", "hook_resid_post")
MOVES = 1e-4
"""How far a write must move the logits to count, as a part of the largest."""


def few(subject: Subject, tokens: int = 4) -> Prompt:
    """The prompt with which every site is tried."""
    return Prompt.of([min(tokens, subject.longest)], subject.model.shape)


def check_writing_back_changes_nothing(subject: Subject) -> None:
    """Writing back what was read leaves the logits as they were: bit for bit, or to rounding where kernels change."""
    plain = functools.lru_cache(maxsize=1)(subject.run)  # one prompt is tried at every site

    def holds(prompt: Prompt, point: Point) -> None:
        read = subject.run(prompt, capture(point.name))
        spec = intervene(point.name, Replace(read[point.name]))
        seen = subject.run(prompt, spec).logits
        what = f"writing back {point.name!r} changed the logits"
        expect_equal(seen, plain(prompt).logits, what, call=prompt.call(spec), tolerance=subject.slack(point))

    prompt = few(subject)
    always = [{"prompt": prompt, "point": point} for point in subject.one_of_each(subject.writable)]
    for_examples(holds, always=always, prompt=prompts(subject), point=points(subject.writable))


def check_writable_points_are_live(subject: Subject) -> None:
    """A change at any writable point moves the logits; a point where it cannot must be declared read-only."""

    def holds(prompt: Prompt, point: Point, seed: int) -> None:
        base = subject.run(prompt, capture(point.name))
        spec = intervene(point.name, Noise(max(spread(base[point.name]), 1e-3), seed=seed))
        moved = largest(subject.run(prompt, spec).logits - base.logits)
        expect(
            moved > MOVES * largest(base.logits),
            f"a change at {point.name!r} does not reach the logits: what the tap returns is not used. Use it, or give "
            "the reason as the site's read_only.",
            seen=f"the logits moved by {moved:.3g}",
            wanted=f"more than {MOVES:g} of {largest(base.logits):.3g}",
            call=prompt.call(spec),
        )

    # softmax does not see what it gets alone, so there must be several keys
    always = [{"prompt": few(subject), "point": point, "seed": 0} for point in subject.one_of_each(subject.writable)]
    for_examples(holds, always=always, prompt=prompts(subject, least=3), point=points(subject.writable), seed=seeds())


def spread(value: Tensor) -> float:
    """The root mean square of the finite entries."""
    finite = value.detach().double()
    finite = finite[finite.isfinite()]
    return float(finite.pow(2).mean().sqrt()) if finite.numel() else 0.0


def check_earlier_layers_are_untouched(subject: Subject) -> None:
    """A write leaves every point before it, in firing order, bit for bit as it was."""

    def holds(prompt: Prompt, point: Point, seed: int) -> None:
        # the layer's own points before it, and what ties the layers before together
        earlier = subject.points[: subject.points.index(point)]
        near = [other for other in earlier if other.layer == point.layer and not other.site.on_demand]
        before = [other.name for other in earlier if other in near or other.site.name in ENDS]
        if not before:
            return
        read = capture(before)
        spec = intervene(point.name, Noise(1.0, seed=seed)) + read
        base, run = subject.run(prompt, read, logits=None), subject.run(prompt, spec, logits=None)
        for name in before:
            what = f"a write at {point.name!r} changed {name!r}, which comes before it"
            expect_equal(run[name], base[name], what, call=prompt.call(spec, logits=None))

    always = [{"prompt": few(subject), "point": p, "seed": 0} for p in subject.one_of_each(subject.writable)]
    for_examples(
        holds, always=always, prompt=prompts(subject, rows=(1, 2)), point=points(subject.writable), seed=seeds()
    )


def check_earlier_positions_are_untouched(subject: Subject) -> None:
    """A write at a position leaves everything at earlier positions as it was."""

    def holds(prompt: Prompt, point: Point, seed: int) -> None:
        dim = "query_pos" if "query_pos" in point.site.dims else "pos"
        at = seed % prompt.shortest
        read = capture(seen_behind(subject, point))
        edit = intervene(point.name, Noise(10.0, seed=seed).at(**{dim: at}))
        base, run = subject.run(prompt, read), subject.run(prompt, edit + read)
        call = prompt.call(edit + read)
        what = f"a write at position {at} of {point.name!r} changed earlier positions of"
        compare_before(subject, prompt, at, base, run, what, call)

    movable = [point for point in subject.writable if {"pos", "query_pos"} & set(point.site.dims)]
    always = [{"prompt": few(subject), "point": p, "seed": 3} for p in subject.one_of_each(movable)]
    for_examples(holds, always=always, prompt=prompts(subject), point=points(movable), seed=seeds())


def seen_behind(subject: Subject, point: Point) -> list[str]:
    """Where the effect of a write is looked at: the stream behind every layer, and the point itself."""
    return [point.name, *(f"blocks.{layer}.hook_resid_post" for layer in range(subject.depth))]


def compare_before(subject: Subject, prompt: Prompt, at: int, base: Run, run: Run, what: str, call: str) -> None:
    """The same activations and logits before the position ``at`` of each row."""
    for row, columns in enumerate(prompt.columns):
        early = torch.tensor(columns[:at], dtype=torch.long)
        for name in (*run, "logits"):
            dims = subject.model.points.find(name).site.dims if name != "logits" else ("batch", "pos", "d_vocab")
            axis = next(i for i, dim in enumerate(dims) if dim in ("pos", "query_pos")) - 1
            one, other = (r.logits if name == "logits" else r[name] for r in (run, base))
            one, other = (value[row].index_select(axis, early.to(value.device)) for value in (one, other))
            expect_equal(one, other, f"{what} {name!r}", call=call, tolerance=subject.tolerance)


def check_interventions_compose_in_order(subject: Subject) -> None:
    """Interventions at one point apply once each, from left to right; a capture sees their result."""

    def holds(prompt: Prompt, point: Point, seed: int) -> None:
        added = trailing(point, seed)
        scale, add = intervene(point.name, Scale(0.5)), intervene(point.name, Add(added))
        read = capture(point.name)
        base = subject.run(prompt, read)[point.name]
        shift = added.to(base) if isinstance(added, Tensor) else added
        # a state arrives changed at all positions but the first; elsewhere it arrives as without the write
        before = capture(point.name, before=True) if point.site.carries else HookSpec()
        first = scale + add
        for spec, wanted in ((first, base * 0.5 + shift), (add + scale, (base + shift) * 0.5)):
            run = subject.run(prompt, spec + read + before)
            if point.site.carries:
                arrived = run.before[point.name]
                wanted = arrived * 0.5 + shift if spec is first else (arrived + shift) * 0.5
            expect_equal(
                run[point.name],
                torch.where(real_entries(prompt, point, base), torch.where(base.isfinite(), wanted, base), 0.0),
                f"the interventions at {point.name!r} did not apply once each, from left to right",
                call=prompt.call(spec + read),
                tolerance=subject.tolerance,
            )

    always = [{"prompt": few(subject), "point": p, "seed": 0} for p in subject.one_of_each(subject.writable)]
    for_examples(holds, always=always, prompt=prompts(subject), point=points(subject.writable), seed=seeds())


def trailing(point: Point, seed: int) -> Tensor | float:
    """Random values over the dims behind batch and positions, a number where there are none."""
    dims = point.site.dims
    last = max(i for i, dim in enumerate(dims) if dim == "batch" or dim in POSITION_DIMS)
    shape = [point.site.sizes[dim] for dim in dims[last + 1 :]]
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return drawn if shape else float(drawn)


def real_entries(prompt: Prompt, point: Point, value: Tensor) -> Tensor:
    """Which entries of a value belong to tokens."""
    real = torch.ones(value.shape, dtype=torch.bool)
    for axis, dim in enumerate(point.site.dims):
        if dim in POSITION_DIMS:
            view = [1] * value.ndim
            view[0], view[axis] = prompt.real.shape
            real &= prompt.real.reshape(view)
    return real.to(value.device)
