import json
import math
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_core.errors import MiError, SelectorError, ValueMismatch
from mi_core.labelled import Labelled, visible

LABELS = {
    "number": lambda n: st.lists(st.integers(-9, 99), min_size=n, max_size=n, unique=True),
    "text": lambda n: st.lists(st.text(max_size=4), min_size=n, max_size=n, unique=True),
    "position": lambda n: st.lists(st.text(max_size=4), min_size=n, max_size=n).map(lambda t: list(enumerate(t))),
}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool)


@st.composite
def parts(draw, dims=None, dtypes=DTYPES):
    """What a labelled array is made of; the shape checks draw random numbers, which a strategy may not."""
    dims = draw(st.integers(0, 3)) if dims is None else dims
    sizes = draw(st.lists(st.integers(1, 4), min_size=dims, max_size=dims))
    names = tuple("abc"[:dims])
    coords = {
        n: tuple(draw(draw(st.sampled_from(list(LABELS.values())))(s))) for n, s in zip(names, sizes, strict=True)
    }
    dtype = draw(st.sampled_from(dtypes))
    numbers = st.floats(width=32) if dtype.is_floating_point else st.integers(0, 1) | st.integers(-(2**60), 2**60)
    count = math.prod(sizes)
    values = draw(st.lists(numbers, min_size=count, max_size=count))
    array = torch.tensor(values, dtype=torch.float64 if dtype.is_floating_point else torch.int64).to(dtype)
    return array.reshape(sizes), names, coords, draw(st.text(max_size=5)), draw(st.sampled_from(["", "nats"]))


@given(parts())
def test_json_gives_back_an_equal_array(made):
    array = Labelled(*made)
    text = array.to_json()
    back = Labelled.from_json(text)
    assert back == array
    assert back.values.dtype == array.values.dtype
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@given(parts(), st.data())
def test_a_label_selects_its_own_place(made, data):
    array = Labelled(*made)
    for axis, dim in enumerate(array.dims):
        place = data.draw(st.integers(0, array.shape[axis] - 1))
        part = array.sel(**{dim: array.coords[dim][place]})
        expected = array.values.select(axis, place)
        assert torch.equal(part.values.isnan(), expected.isnan())
        assert torch.equal(part.values[~part.values.isnan()], expected[~expected.isnan()])
        assert part.dims == tuple(name for name in array.dims if name != dim)


def test_numbers_that_are_no_labels_count_from_the_end_or_along_texts():
    array = Labelled(torch.tensor([10.0, 20.0, 30.0]), ("layer",), {"layer": (2, 5, 7)})
    assert array.sel(layer=5).item() == 20
    assert array.sel(layer=-1).item() == 30
    with pytest.raises(SelectorError, match=r"1 is no label of axis 'layer'.*2, 5, 7"):
        array.sel(layer=1)
    named = Labelled(torch.tensor([1.0, 2.0]), ("point",), {"point": ("a", "b")})
    assert named.sel(point=1).item() == 2


def test_a_position_is_found_by_its_number_or_its_token():
    array = Labelled(torch.arange(3.0), ("pos",), {"pos": ((0, "The"), (1, " cat"), (2, " cat"))})
    assert array.sel(pos=1).item() == 1
    assert array.sel(pos="The").item() == 0
    assert array.sel(pos=-1).item() == 2
    with pytest.raises(SelectorError, match="the label of 2 places"):
        array.sel(pos=" cat")


def test_lists_and_slices_keep_the_axis():
    array = Labelled(torch.arange(4.0), ("layer",), name="x")
    assert array.sel(layer=[3, 1]).values.tolist() == [3, 1]
    assert array.sel(layer=[3, 1]).coords["layer"] == (3, 1)
    assert array.sel(layer=slice(-2, None)).coords["layer"] == (2, 3)
    assert array.sel(layer=range(1, 3)).values.tolist() == [1, 2]


def test_an_axis_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(SelectorError, match=r"no axis 'layr'.*'layer'") as caught:
        Labelled(torch.zeros(2), ("layer",)).sel(layr=0)
    assert caught.value.dim == "layr"
    with pytest.raises(SelectorError, match="no axis 'x'"):
        Labelled(torch.zeros(2), ("layer",)).mean("x")
    with pytest.raises(SelectorError, match="holds 2 numbers"):
        Labelled(torch.zeros(2), ("layer",)).item()


@given(parts(dims=2, dtypes=(torch.float64,)), st.floats(-5, 5))
def test_arithmetic_is_that_of_the_numbers(made, number):
    values, dims, coords, name, _ = made
    array = Labelled(values.nan_to_num(0.0, 1.0, -1.0), dims, coords, name, "nats")
    for result, expected, unit in [
        (array + number, array.values + number, "nats"),
        (number - array, number - array.values, "nats"),
        (array * number, array.values * number, "nats"),
        (-array, -array.values, "nats"),
        (array - array, array.values * 0, "nats"),
        (array * array, array.values**2, ""),
        (array / (array * array + 1), array.values / (array.values**2 + 1), ""),
        (1 / (array * array + 1), 1 / (array.values**2 + 1), ""),
    ]:
        assert torch.equal(result.values, expected)
        assert (result.dims, result.coords, result.unit) == (array.dims, array.coords, unit)


def test_arrays_of_other_axes_do_not_mix():
    left = Labelled(torch.zeros(2), ("layer",), {"layer": (0, 1)}, "left")
    with pytest.raises(ValueMismatch, match=r"left.*right.*\(0, 1\) and \(1, 2\)"):
        left - Labelled(torch.zeros(2), ("layer",), {"layer": (1, 2)}, "right")
    with pytest.raises(ValueMismatch, match="absent"):
        left - Labelled(torch.zeros(2), ("pos",))


def test_the_mean_is_over_one_named_axis():
    array = Labelled(torch.tensor([[1, 2], [3, 5]]), ("layer", "pos"), {"pos": ("a", "b")}, "x", "nats")
    assert array.mean("layer").values.tolist() == [2.0, 3.5]
    assert array.mean("layer").coords == {"pos": ("a", "b")}


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(ValueMismatch, match="2 places and 3 labels"):
        Labelled(torch.zeros(2), ("pos",), {"pos": (1, 2, 3)})
    with pytest.raises(ValueMismatch, match="one name for each axis"):
        Labelled(torch.zeros(2), ("pos", "layer"))
    with pytest.raises(ValueMismatch, match=r"labels for \['layr'\]"):
        Labelled(torch.zeros(2), ("pos",), {"layr": (1, 2)})


def test_values_leave_the_graph_and_the_device():
    assert not Labelled(torch.zeros(2, requires_grad=True) * 2, ("pos",)).values.requires_grad


def test_equality_sees_names_labels_dtype_and_numbers():
    array = Labelled(torch.tensor([1.0, float("nan")]), ("pos",), {"pos": ("a", "b")}, "x", "nats")
    same = Labelled(array.values.clone(), ("pos",), {"pos": ["a", "b"]}, "x", "nats")
    assert array == same
    for values, coords, name, unit in [
        (torch.tensor([1.0, 2.0]), ("a", "b"), "x", "nats"),
        (torch.tensor([1.0 + 2**-23, float("nan")]), ("a", "b"), "x", "nats"),
        (array.values.double(), ("a", "b"), "x", "nats"),
        (array.values, ("a", "c"), "x", "nats"),
        (array.values, ("a", "b"), "y", "nats"),
        (array.values, ("a", "b"), "x", ""),
    ]:
        assert array != Labelled(values, ("pos",), {"pos": coords}, name, unit)
    assert array != 3


def test_a_frame_has_a_row_for_each_number():
    pandas = pytest.importorskip("pandas", reason="pandas, the extra 'frame', is missing")
    array = Labelled(torch.tensor([[1.0, 2.0]]), ("layer", "pos"), {"pos": ((0, "The"), (1, " cat"))}, "heat")
    expected = {"layer": [0, 0], "pos": [0, 1], "pos_token": ["The", " cat"], "heat": [1.0, 2.0]}
    assert array.to_frame().to_dict("list") == expected
    assert isinstance(array.to_frame(), pandas.DataFrame)


def test_a_frame_without_pandas_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MiError, match=r"mi-core\[frame\]"):
        Labelled(torch.zeros(1), ("pos",)).to_frame()


@given(parts())
def test_any_array_can_be_shown(made):
    array = Labelled(*made)
    from io import StringIO

    from rich.console import Console

    console = Console(file=StringIO(), width=30)
    console.print(array)
    assert "<table" in array.to_html()
    assert array._repr_html_().startswith("<iframe")
    assert repr(array).startswith("Labelled(")


def test_more_than_two_axes_say_what_to_select(capsys):
    Labelled(torch.zeros(2, 3, 4), ("layer", "pos", "head"), {}, "x").show()
    assert ".sel(layer=0)" in " ".join(capsys.readouterr().out.split())


@given(st.text())
def test_a_visible_label_is_one_printable_word(text):
    shown = visible(text)
    assert shown.isprintable()
    assert " " not in shown


def test_a_missing_or_broken_file_is_said_so(tmp_path):
    with pytest.raises(MiError, match="cannot be read"):
        Labelled.from_json(tmp_path / "absent.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(MiError, match="is no JSON"):
        Labelled.from_json(tmp_path / "bad.json")
