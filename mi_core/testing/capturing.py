"""Reading changes nothing, and a part of what is read is that part of the whole."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from mi_core.layout import POSITION_DIMS
from mi_core.names import Point
from mi_core.spec import capture
from mi_core.testing.effort import for_examples
from mi_core.testing.expecting import expect_equal
from mi_core.testing.strategies import Prompt, points, prompts, selectors, several
from mi_core.testing.subject import Subject

__all__ = [
    "check_captures_commute",
    "check_capturing_changes_nothing",
    "check_early_stop_equals_the_full_run",
    "check_selected_captures_are_slices",
]


def check_capturing_changes_nothing(subject: Subject) -> None:
    """Whatever is read, the logits stay the same: bit for bit, or to rounding where a kernel is replaced."""
    plain = functools.lru_cache(maxsize=1)(subject.run)  # one prompt is tried at every site

    def holds(prompt: Prompt, read: list[Point]) -> None:
        spec = capture([point.name for point in read])
        slack = subject.tolerance if any(point.site.replaces_kernel for point in read) else 0.0
        wanted, seen = plain(prompt).logits, subject.run(prompt, spec).logits
        expect_equal(seen, wanted, "capturing changed the logits", call=prompt.call(spec), tolerance=slack)

    prompt = Prompt.of([min(4, subject.longest)], subject.model.shape)
    always = [{"prompt": prompt, "read": [point]} for point in subject.one_of_each(subject.points)]
    for_examples(holds, always=always, prompt=prompts(subject), read=several(subject.points))


def check_captures_commute(subject: Subject) -> None:
    """A point reads the same whatever else is read, and in whatever order it is asked for."""

    def holds(prompt: Prompt, one: Point, others: list[Point]) -> None:
        alone = subject.run(prompt, capture(one.name))[one.name]
        for names in ([one.name, *(p.name for p in others)], [*(p.name for p in others), one.name]):
            spec = sum((capture(name) for name in dict.fromkeys(names)), capture(one.name))
            slack = subject.slack(one, *others)
            seen = subject.run(prompt, spec)[one.name]
            expect_equal(seen, alone, f"{one.name!r} reads differently", call=prompt.call(spec), tolerance=slack)

    prompt = Prompt.of([min(3, subject.longest)], subject.model.shape)
    always = [
        {"prompt": prompt, "one": one, "others": [other for other in subject.points if other.layer == one.layer]}
        for one in subject.one_of_each(subject.points)
    ]
    drawn = {"prompt": prompts(subject, rows=(1, 2)), "one": points(subject.points)}
    for_examples(holds, always=always, others=several(subject.points, 3), **drawn)


def check_early_stop_equals_the_full_run(subject: Subject) -> None:
    """A run that stops after the last needed layer reads what the full run reads; "last" logits are the last ones."""

    def holds(prompt: Prompt, read: list[Point]) -> None:
        spec = capture([point.name for point in read])
        full, short = subject.run(prompt, spec), subject.run(prompt, spec, logits=None)
        last = subject.run(prompt, spec, logits="last")
        for point in read:
            what = f"{point.name!r} differs from that of the full run"
            expect_equal(short[point.name], full[point.name], what, call=prompt.call(spec, logits=None))
            slack = 0.0 if point.layer is not None else subject.tolerance
            expect_equal(
                last[point.name], full[point.name], what, call=prompt.call(spec, logits="last"), tolerance=slack
            )
        wanted = torch.stack([full.logits[row, columns[-1]] for row, columns in enumerate(prompt.columns)])
        expect_equal(
            last.logits[:, 0],
            wanted,
            "the last logits differ from those of the full run",
            call=prompt.call(spec, logits="last"),
            tolerance=subject.tolerance,
        )

    for_examples(holds, prompt=prompts(subject), read=several(subject.points))


def check_selected_captures_are_slices(subject: Subject) -> None:
    """A capture with selectors is that slice of the whole capture, positions counted on each row's tokens."""

    @st.composite
    def cases(draw: st.DrawFn) -> tuple[Prompt, Point, dict[str, Any]]:
        prompt, point = draw(prompts(subject)), draw(points(subject.points))
        return prompt, point, draw(selectors(point, prompt))

    def holds(case: tuple[Prompt, Point, dict[str, Any]]) -> None:
        prompt, point, chosen = case
        spec = capture(point.name).at(**chosen)
        whole, part = subject.run(prompt, capture(point.name)), subject.run(prompt, spec)
        wanted = sliced(whole[point.name], point.site.dims, prompt, chosen)
        what = f"the selected part of {point.name!r} is not that part of the whole"
        expect_equal(part[point.name], wanted, what, call=prompt.call(spec))
        expect_equal(whole.at(point.name, **chosen), part.at(point.name), "run.at(...) differs", call=prompt.call(spec))

    for_examples(holds, case=cases())


def sliced(value: Tensor, dims: Sequence[str], prompt: Prompt, chosen: dict[str, Any]) -> Tensor:
    """The reference for selections: row by row, plain indexing, zeros where a row has fewer positions."""
    rows = []
    for row in picked(range(len(prompt.ids)), chosen.get("batch", slice(None))):
        part = value[row : row + 1]
        for axis, dim in enumerate(dims):
            if dim not in chosen or dim == "batch":
                continue
            there = prompt.columns[row] if dim in POSITION_DIMS else range(part.shape[axis])
            part = part.index_select(axis, torch.tensor(picked(there, chosen[dim]), device=part.device))
        rows.append(part)
    shape = [max(part.shape[axis] for part in rows) for axis in range(value.ndim)]
    result = value.new_zeros([len(rows), *shape[1:]])
    for row, part in enumerate(rows):
        place: tuple[Any, ...] = (row, *map(slice, part.shape[1:]))
        result[place] = part[0]
    drops = [axis for axis, dim in enumerate(dims) if isinstance(chosen.get(dim), int)]
    return result.squeeze(drops) if drops else result


def picked(among: Sequence[int], selector: Any) -> list[int]:
    """Plain Python indexing."""
    if isinstance(selector, slice):
        return list(among[selector])
    return [among[index] for index in ([selector] if isinstance(selector, int) else selector)]
