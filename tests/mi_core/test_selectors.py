from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_core.errors import SelectorError
from mi_core.positions import Span, Token, Turn
from mi_core.selectors import Mask, canonical, chosen, merged, selector_from_json, selector_to_json

INTS = st.integers(-5, 5)
SLICES = st.builds(slice, INTS | st.none(), INTS | st.none(), st.integers(1, 3) | st.none())
LISTS = st.lists(INTS, min_size=1, max_size=4)
MASKS = st.lists(st.booleans(), min_size=1, max_size=5)
TEXTS = st.sampled_from([Span("a"), Span(["a", "b"], nth=1).last, Token(" x"), Turn(-1).after.first])


@given(st.one_of(INTS, SLICES, LISTS, MASKS, TEXTS))
def test_selectors_survive_json_and_are_canonical_once(selector: Any) -> None:
    once = canonical("pos", selector)
    assert canonical("pos", once) == once
    back = selector_from_json(selector_to_json(once))
    assert (back, type(back)) == (once, type(once))


@given(st.one_of(INTS, SLICES, LISTS, MASKS), st.integers(1, 6))
def test_selectors_choose_what_numpy_indexing_chooses(selector: Any, size: int) -> None:
    every = np.arange(size)
    kind = np.array(selector) if isinstance(selector, list) else selector
    try:
        wanted = np.atleast_1d(every[kind]).tolist()
    except IndexError:
        with pytest.raises(SelectorError):
            chosen(canonical("pos", selector), size, dim="pos", where="here")
    else:
        assert chosen(canonical("pos", selector), size, dim="pos", where="here") == wanted


@given(LISTS)
def test_arrays_and_tensors_are_lists(items: list[int]) -> None:
    wanted = tuple(items)
    for given_ in (
        np.array(items),
        torch.tensor(items),
        [np.int64(i) for i in items],
        [torch.tensor(i) for i in items],
    ):
        assert canonical("pos", given_) == wanted
    assert canonical("pos", np.int64(3)) == canonical("pos", torch.tensor(3)) == 3
    assert canonical("pos", torch.tensor([True, False])) == Mask([True, False])


@given(st.integers(-4, 4), st.integers(-4, 4), st.integers(1, 3))
def test_a_range_means_its_numbers(start: int, stop: int, step: int) -> None:
    numbers = range(start, stop, step)
    selector = canonical("pos", numbers)
    if all(-9 <= number < 9 for number in numbers):
        assert chosen(selector, 9, dim="pos", where="here") == [number % 9 for number in numbers]


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        ("France", r"Span\('France'\)"),
        (None, "selects nothing"),
        (True, "selects nothing"),
        (1.5, "no selector"),
        ([0.5], "no selector"),
        ([True, 1], "no selector"),
        (slice(None, None, -1), "steps forward"),
        (slice(0.5, None), "made of ints"),
        ({1, 2}, "no selector"),
    ],
)
def test_what_selects_nothing_is_refused(selector: Any, said: str) -> None:
    with pytest.raises(SelectorError, match=said) as caught:
        canonical("head", selector)
    assert caught.value.dim == "head"


def test_an_int_out_of_range_names_the_range() -> None:
    with pytest.raises(SelectorError, match=r"head=4 is out of range: x has 4 \(-4 to 3\)"):
        chosen(4, 4, dim="head", where="x")
    with pytest.raises(SelectorError, match=r"mask for 'head' has 2 entries, x has 4"):
        chosen(Mask([True, False]), 4, dim="head", where="x")


def test_a_dim_is_narrowed_once() -> None:
    with pytest.raises(SelectorError, match="already selected"):
        merged({"pos": 1}, {"pos": 1})
    assert merged({"pos": 1}, {"head": [0, 2]}) == {"pos": 1, "head": (0, 2)}


def test_unsaveable_positions_say_so() -> None:
    class Odd:
        def resolve(self, row: Any, row_number: int) -> list[int]:
            return [0]

    with pytest.raises(SelectorError, match="to_json"):
        selector_to_json(Odd())
