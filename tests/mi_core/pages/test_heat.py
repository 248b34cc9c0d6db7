import math
from io import StringIO

import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from mi_core.labelled import Labelled
from mi_core.pages.heat import Heat, number, strips
from mi_core.pages.terminal import Bands, Flow, bands, bar, heat_table

NUMBERS = st.floats(-1e6, 1e6)


def shown(renderable, width):
    console = Console(file=StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()


@given(st.lists(NUMBERS, min_size=1, max_size=6), NUMBERS, NUMBERS)
def test_a_larger_number_is_never_paler(numbers, one, two):
    heat = Heat.of(Labelled(torch.tensor(numbers, dtype=torch.float64), ("pos",)))
    low, high = sorted((one, two))
    assert heat.level(low) <= heat.level(high)
    assert -1 <= heat.level(low) <= 1


def test_zero_is_neutral_where_both_signs_occur():
    heat = Heat.of(Labelled(torch.tensor([-1.0, 4.0]), ("pos",)))
    assert heat.level(0.0) == 0
    assert heat.level(-1.0) == -0.25
    assert heat.level(math.nan) == 0
    assert Heat(-4.0, 1.0).level(1.0) == 0.25


def test_probabilities_share_one_scale():
    assert Heat.of(Labelled(torch.tensor([0.2, 0.3]), ("pos",), unit="probability")) == Heat(0.0, 1.0)
    assert Heat.of(Labelled(torch.tensor([math.nan, math.inf]), ("pos",))) == Heat(0.0, 1.0)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_a_number_is_short_and_close(value):
    assert len(number(value)) <= 10
    assert math.isclose(float(number(value)), value, rel_tol=6e-3)


def test_every_part_of_an_array_is_in_one_strip():
    array = Labelled(torch.arange(24.0).reshape(2, 3, 4), ("head", "layer", "pos"))
    found = [value for strip in strips(array) for _, values in strip.rows for value in values]
    assert found == list(range(24))
    assert [strip.heading for strip in strips(array)] == ["head 0", "head 1"]


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 20))
def test_bands_hold_every_column_once_and_no_more_than_fits(widths, room):
    found = list(bands(widths, room))
    assert [column for start, stop in found for column in range(start, stop)] == list(range(len(widths)))
    assert all(stop - start == 1 or sum(widths[start:stop]) <= room for start, stop in found)


@given(st.integers(10, 60), st.integers(1, 30))
def test_a_table_shows_every_number_at_every_width(width, columns):
    array = Labelled(torch.arange(2 * columns).reshape(2, columns) + 1000, ("layer", "pos"))
    printed = shown(heat_table(array), width)
    assert all(len(line) <= width for line in printed.splitlines())
    assert all(str(value) in printed for value in array.values.flatten().tolist())


@given(st.lists(st.text("abc", min_size=1, max_size=8), min_size=1, max_size=9), st.integers(8, 40))
def test_texts_flow_unbroken(words, width):
    lines = shown(Flow([Text(word) for word in words]), width).splitlines()
    assert " ".join(lines).split() == words
    assert all(len(line.rstrip()) <= width for line in lines)


@given(st.floats(0, 1), st.integers(1, 20))
def test_a_bar_is_as_wide_as_its_share(share, width):
    drawn = bar(share, width)
    assert len(drawn) == width
    assert abs(drawn.count("█") - share * width) <= 1.0


def test_a_colour_that_is_dark_carries_light_text():
    assert Heat(0.0, 1.0).colours(0.0)[0] == (255, 255, 255)
    assert Heat(0.0, 1.0).colours(1.0)[0] == (0, 0, 0)
    assert isinstance(heat_table(Labelled(torch.zeros(1), ("pos",))), Bands)
