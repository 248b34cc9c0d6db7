"""Every label function against an independent one that is slow and plain."""

from __future__ import annotations

import itertools
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_algzoo.tasks import TASKS, argmedian, longest_cycle, median, second_argmax, task_of
from mi_core.errors import InputError

NUMBERS = st.lists(st.floats(-9, 9, width=32), min_size=2, max_size=7, unique=True)


def longest_by_walking(values: tuple[int, ...]) -> int:
    """Walk from every node until a node comes again: only a walk that returns to its start has found a cycle."""
    best = 0
    for start in range(len(values)):
        seen, place = [start], values[start]
        while place not in seen:
            seen.append(place)
            place = values[place]
        if place == start:
            best = max(best, len(seen))
    return best - 1


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_the_longest_cycle_is_right_for_every_map(n: int) -> None:
    maps = list(itertools.product(range(n), repeat=n))
    assert longest_cycle(torch.tensor(maps)).tolist() == [longest_by_walking(values) for values in maps]
    assert TASKS["longest_cycle"].domain(n).tolist() == [list(values) for values in maps]


@given(NUMBERS)
def test_the_second_largest_is_found(values: list[float]) -> None:
    rest = [value for value in values if value != max(values)]
    assert second_argmax(torch.tensor([values])).item() == values.index(max(rest))


@given(NUMBERS.filter(lambda values: len(values) % 2 == 1))
def test_the_middle_one_is_found(values: list[float]) -> None:
    assert argmedian(torch.tensor([values])).item() == values.index(statistics.median(values))


@given(NUMBERS)
def test_the_median_is_the_median(values: list[float]) -> None:
    assert median(torch.tensor([values], dtype=torch.float64)).item() == pytest.approx(statistics.median(values))


@pytest.mark.parametrize("permutation", list(itertools.permutations(range(4))))
def test_labels_follow_the_order_alone(permutation: tuple[int, ...]) -> None:
    x = torch.tensor([permutation], dtype=torch.float32)
    assert second_argmax(x).item() == permutation.index(2)
    assert argmedian(x).item() == permutation.index(2)


def test_what_means_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="odd length"):
        TASKS["argmedian"].draw(3, 4)
    with pytest.raises(InputError, match="too many to list"):
        TASKS["longest_cycle"].domain(9)
    with pytest.raises(InputError, match="cannot be listed"):
        TASKS["median"].domain(3)
    with pytest.raises(InputError, match="no task 'sum'"):
        task_of("sum")
