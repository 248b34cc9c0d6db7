"""Specs as data: saved ones do the same, and an insert that returns what it read changes nothing."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mi_core.interventions import Add, Interpolate, Intervention, Noise, Replace, Scale
from mi_core.names import Point
from mi_core.protocols import Site, Tap
from mi_core.spec import HookSpec, capture, insert, intervene
from mi_core.testing.effort import for_examples
from mi_core.testing.expecting import expect, expect_equal
from mi_core.testing.strategies import Prompt, points, prompts, seeds
from mi_core.testing.subject import Subject

__all__ = ["check_identity_inserts_change_nothing", "check_saved_specs_give_equal_results"]


def check_saved_specs_give_equal_results(subject: Subject) -> None:
    """A spec that was saved and loaded is equal, and its run gives the same, bit for bit."""

    def holds(prompt: Prompt, point: Point, seed: int) -> None:
        spec = some_spec(subject, prompt, point, seed)
        with tempfile.TemporaryDirectory() as folder:
            spec.save(Path(folder) / "spec.json")
            again = HookSpec.load(Path(folder) / "spec.json")
        call = f"HookSpec.load(...) of {spec!r}"
        named = [entry for entry in spec.entries if "Recorded" not in repr(entry)]
        expect(len(again.entries) == len(named), "a loaded spec has other entries.", seen=again, wanted=spec, call=call)
        one, other = subject.run(prompt, spec), subject.run(prompt, again)
        expect_equal(other.logits, one.logits, "a loaded spec gives other logits", call=call)
        for name in one:
            expect_equal(other[name], one[name], f"a loaded spec gives another {name}", call=call)

    for_examples(holds, prompt=prompts(subject), point=points(subject.writable), seed=seeds())


def some_spec(subject: Subject, prompt: Prompt, point: Point, seed: int) -> HookSpec:
    """Interventions with numbers, with a tensor and with a run, and a capture."""
    draw = torch.Generator().manual_seed(seed)
    source = subject.run(prompt, capture(point.name), logits=None)
    value = torch.randn(source[point.name].shape, generator=draw)
    edits: list[Intervention] = [Scale(0.5), Noise(0.1, seed=seed), Add(value, scale=0.25), Replace(source)]
    chosen = edits[seed % 3 :: 2] or [Interpolate(0.0, 0.5)]
    return sum((intervene(point.name, edit) for edit in chosen), HookSpec()) + capture(point.name)


class Identity:
    """An insert that returns what it read, and offers it at a site of its own on the way."""

    def __init__(self, point: Point) -> None:
        self.point = point.name
        self.reads: Sequence[str] = (point.name,)
        self.writes: Sequence[str] = (point.name,)
        self.sites: Sequence[Site] = (
            Site("hook_own", point.site.dims, point.site.sizes, meaning="what the insert read"),
        )

    def __call__(self, values: Mapping[str, Tensor], tap: Tap) -> Mapping[str, Tensor]:
        """What was read."""
        return {self.point: tap("hook_own", values[self.point])}


def check_identity_inserts_change_nothing(subject: Subject) -> None:
    """An insert that returns what it read leaves the logits as they were, and its own site fires."""
    plain = functools.lru_cache(maxsize=1)(subject.run)  # one prompt is tried at every site

    def holds(prompt: Prompt, point: Point) -> None:
        spec = insert(Identity(point), point.name) + capture([point.name, f"{point.name}.hook_own"])
        run, call = subject.run(prompt, spec), prompt.call(spec)
        what = f"an insert at {point.name} that returns what it read changed the logits"
        expect_equal(run.logits, plain(prompt).logits, what, call=call, tolerance=subject.slack(point))
        seen, wanted = run[f"{point.name}.hook_own"], run[point.name]
        expect_equal(seen, wanted, f"the insert at {point.name} read something else", call=call)

    prompt = Prompt.of([min(4, subject.longest)], subject.model.shape)
    always = [{"prompt": prompt, "point": point} for point in subject.one_of_each(subject.writable)]
    for_examples(holds, always=always, prompt=prompts(subject), point=points(subject.writable))
