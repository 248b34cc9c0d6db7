from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import close, random, small

import mi_core as mi
from mi_core.errors import ChangedInPlace, SelectorError, SpecError
from mi_core.spec import HookSpec

POINT = "blocks.1.hook_resid_post"
ENTRIES: list[Any] = [
    lambda: mi.capture("blocks.*.hook_resid_post"),
    lambda: mi.capture(["hook_embed", POINT]).at(pos=-1),
    lambda: mi.capture(POINT, before=True),
    lambda: mi.intervene(POINT, mi.Add(random(16), scale=2.0)),
    lambda: mi.intervene(POINT, mi.Zero().at(layer=1)),
    lambda: mi.intervene("blocks.*.attn.hook_attn_scores", mi.Knockout(-1, mi.Span("x"))),
]
MADE = st.lists(st.integers(0, len(ENTRIES) - 1), max_size=4)


def spec_of(numbers: list[int]) -> HookSpec:
    return sum((ENTRIES[number]() for number in numbers), HookSpec())


@given(MADE, MADE)
def test_specs_are_equal_if_their_structure_and_bytes_are(one: list[int], other: list[int]) -> None:
    def meaning(numbers: list[int]) -> Any:
        return {n for n in numbers if n < 3}, [n for n in numbers if n >= 3]

    assert (spec_of(one) == spec_of(other)) == (meaning(one) == meaning(other))
    if meaning(one) == meaning(other):
        assert hash(spec_of(one)) == hash(spec_of(other))


@given(MADE, MADE, MADE)
def test_sums_associate_and_the_empty_spec_is_nothing(a: list[int], b: list[int], c: list[int]) -> None:
    x, y, z = spec_of(a), spec_of(b), spec_of(c)
    assert (x + y) + z == x + (y + z)
    assert HookSpec() + x == x == x + HookSpec()
    assert sum([x, y]) == x + y
    assert bool(x) == bool(a)


@given(MADE)
def test_a_repr_is_what_was_written(numbers: list[int]) -> None:
    spec = spec_of(numbers)
    known = {
        "mi": mi,
        "HookSpec": HookSpec,
        "capture": mi.capture,
        "intervene": mi.intervene,
        **{name: getattr(mi, name) for name in mi.__all__},
    }
    text = repr(spec).replace("<float32 [16]>", "random(16)")
    assert eval(text, {**known, "random": random}) == spec


def test_functions_and_modules_are_equal_by_identity() -> None:
    def double(x: Any) -> Any:
        return 2 * x

    def twin(x: Any) -> Any:
        return 2 * x

    assert mi.intervene(POINT, mi.Apply(double)) == mi.intervene(POINT, mi.Apply(double))
    assert mi.intervene(POINT, mi.Apply(double)) != mi.intervene(POINT, mi.Apply(twin))


def test_a_tensor_that_was_edited_after_it_entered_is_an_error_at_the_next_run() -> None:
    for make in (mi.Add, mi.ProjectOut, lambda v: mi.Replace(0.0, within=v)):
        vector = random(16)
        spec = mi.intervene(POINT, make(vector)).at(pos=-1) + mi.capture(POINT)
        small().run([[1, 2]], spec)
        vector.mul_(2)
        with pytest.raises(ChangedInPlace, match=r"\[16\].*changed in place after it entered"):
            small().run([[1, 2]], spec)


def test_at_narrows_everything_in_a_spec() -> None:
    spec = (mi.capture("blocks.*.hook_resid_post") + mi.intervene("blocks.*.hook_resid_post", mi.Zero())).at(
        layer=[0, 2], pos=-1
    )
    run = small().run([[1, 2, 3]], spec)
    assert list(run) == ["blocks.0.hook_resid_post", "blocks.2.hook_resid_post"]
    assert all(value.shape == (1, 16) and not value.any() for value in run.values())
    with pytest.raises(SelectorError, match="already selected"):
        spec.at(pos=0)


def test_a_spec_is_immutable() -> None:
    spec = mi.capture(POINT)
    narrowed = spec.at(pos=-1)
    assert spec != narrowed
    with pytest.raises(AttributeError):
        spec.entries = ()  # type: ignore[misc]
    points = ["hook_embed"]
    kept = mi.capture(points)
    points.append(POINT)
    assert kept == mi.capture("hook_embed")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: mi.capture([]), "names no point"),
        (lambda: mi.capture(""), "names no point"),
        (lambda: small().run([[1]], "hook_embed"), "is no spec"),
        (lambda: mi.insert(object(), "x"), "is no insert: it needs reads, writes, sites"),
    ],
)
def test_what_is_no_spec_is_refused(make: Any, said: str) -> None:
    import contextlib

    with pytest.raises(SpecError, match=said), contextlib.ExitStack():
        make()


def test_adding_something_else_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        _ = mi.capture(POINT) + 1  # type: ignore[operator]


def test_captures_commute_and_see_what_the_rest_of_the_model_sees() -> None:
    edit = mi.intervene(POINT, mi.Scale(2.0))
    after = mi.capture(POINT)
    one, other = small().run([[1, 2]], after + edit), small().run([[1, 2]], edit + after)
    assert torch.equal(one[POINT], other[POINT])
    through = small().run([[1, 2]], edit + mi.capture("blocks.2.hook_resid_pre"))
    assert torch.equal(through["blocks.2.hook_resid_pre"], one[POINT])
    plain = small().run([[1, 2]], after)
    close(one[POINT], 2 * plain[POINT])
