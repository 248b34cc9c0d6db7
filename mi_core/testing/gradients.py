"""Gradients: they reach every point, and are what finite differences say."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mi_core.interventions import Add
from mi_core.layout import POSITION_DIMS
from mi_core.names import Point
from mi_core.spec import capture, intervene
from mi_core.testing.effort import for_examples
from mi_core.testing.expecting import expect, expect_equal, largest
from mi_core.testing.strategies import Prompt, points, prompts, seeds
from mi_core.testing.subject import Subject

__all__ = ["check_gradients_agree_with_finite_differences", "check_gradients_reach_every_point"]


def check_gradients_reach_every_point(subject: Subject) -> None:
    """With ``grad=True`` every writable point has a gradient that is finite and not zero, and the logits stay."""
    names = [point.name for point in subject.writable]

    def holds(prompt: Prompt, seed: int) -> None:
        spec = capture(names)
        run, call = subject.run(prompt, spec, grad=True), prompt.call(spec, grad=True)
        what = "keeping gradients changed the logits"
        expect_equal(run.logits.detach(), subject.run(prompt).logits, what, call=call, tolerance=subject.tolerance)
        weight = torch.randn(subject.model.shape.d_vocab, generator=torch.Generator().manual_seed(seed))
        found = run.grad(lambda logits: logits @ weight.to(logits), names)
        for name in names:
            slope = found[name]
            finite = bool(slope.isfinite().all())
            expect(finite, f"the gradient at {name} is not finite.", seen="NaN or inf", wanted="numbers", call=call)
            reached = bool((slope != 0).any())
            what = f"no gradient reaches {name}: the graph is cut between it and the logits."
            expect(reached, what, seen="zeros", wanted="a gradient", call=f"run.grad(metric, {name!r}), run = {call}")

    # softmax has no slope where there is one key
    for_examples(holds, prompt=prompts(subject, rows=(1, 2), least=3), seed=seeds())


def precise(subject: Subject) -> tuple[Subject, float, float]:
    """The subject in float64 where its backend can, a step, and how far differences may be from gradients."""
    if isinstance(subject.model.backend, nn.Module) and subject.model.device.type != "mps":
        wide = subject.in_dtype(torch.float64)
        probe = Prompt.of([min(3, subject.longest)], subject.model.shape)
        try:
            values = [value for value in wide.run(probe, capture("*")).values() if value.is_floating_point()]
            exact = all(value.dtype is torch.float64 for value in values)
        except RuntimeError:
            exact = False
        if exact:
            return wide, 1e-6, 1e-5
    return subject, 1e-2, 5e-2


def check_gradients_agree_with_finite_differences(subject: Subject) -> None:
    """A gradient is what a small change in a random direction does to the logits (in float64 where that runs)."""
    wide, step, tolerance = precise(subject)

    def holds(prompt: Prompt, point: Point, seed: int) -> None:
        read = capture(point.name)
        run = wide.run(prompt, read, grad=True)
        draw = torch.Generator().manual_seed(seed)
        direction = real_only(prompt, point, torch.randn(run[point.name].shape, generator=draw).to(run[point.name]))
        weight = torch.randn(run.logits.shape, generator=draw).to(run.logits)
        slope = run.vjp({"hook_logits": weight}, point.name)[point.name]
        inside = torch.where(run[point.name].isfinite(), direction, 0.0)
        said = (slope.double() * inside.double()).sum()

        def value(by: float) -> Tensor:
            moved = intervene(point.name, Add(direction, scale=by * scale))
            return (wide.run(prompt, moved).logits.double() * weight.double()).sum()

        # a step that is small beside the activation, where there is one
        activation = run[point.name].detach()
        scale = min(1.0, largest(activation)) if bool((activation != 0).any()) else 1.0
        measured = (value(step) - value(-step)) / (2 * step * scale)
        size = float((slope.double() * inside.double()).abs().sum()) + 1e-6
        expect(
            bool((measured - said).abs() <= tolerance * size),
            f"the gradient at {point.name} is not what finite differences say.",
            seen=f"{float(said):.8g}",
            wanted=f"{float(measured):.8g}, up to {tolerance * size:.3g}",
            call=f"run.vjp(...), run = {prompt.call(read, grad=True)} in {wide.model.dtype}",
        )

    prompt = Prompt.of([min(3, subject.longest)], subject.model.shape)
    always = [{"prompt": prompt, "point": p, "seed": 0} for p in subject.one_of_each(subject.writable)]
    for_examples(
        holds, always=always, prompt=prompts(subject, rows=(1, 2)), point=points(subject.writable), seed=seeds()
    )


def real_only(prompt: Prompt, point: Point, value: Tensor) -> Tensor:
    """Zeros at the pads."""
    for axis, dim in enumerate(point.site.dims):
        if dim in POSITION_DIMS and point.site.dims[0] == "batch":
            view = [1] * value.ndim
            view[0], view[axis] = prompt.real.shape
            value = value * prompt.real.to(value.device).reshape(view)
    return value
