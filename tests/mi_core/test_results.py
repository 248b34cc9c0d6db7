from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_core.errors import NotSerialisable, SelectorError
from mi_core.labelled import Labelled
from mi_core.plain import from_plain, frozen, to_plain
from mi_core.results import Result, ResultProvenance


@dataclass(frozen=True, kw_only=True)
class Heat(Result):
    heat: Labelled
    row: Labelled
    names: Mapping[int, str]
    notes: tuple[object, ...] = ()
    best: float | None = None


WORDS = st.text(max_size=6)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(WORDS | st.integers(), inner, max_size=3),
    max_leaves=8,
)
PROVENANCE = st.fixed_dictionaries(
    {
        "model": WORDS,
        "family": WORDS,
        "revision": st.none() | WORDS,
        "seed": st.none() | st.integers(),
        "versions": st.dictionaries(WORDS, WORDS, max_size=2),
        "prompts": st.lists(WORDS, max_size=2).map(tuple),
        "tokens": st.just((("a", "b"),)),
        "ids": st.just(((1, 2),)),
        "spec": st.none() | st.just({"entries": ("capture", {"$at": 1})}),
    }
)


@given(
    PROVENANCE,
    st.lists(st.floats(width=32), min_size=6, max_size=6),
    st.dictionaries(st.integers(), WORDS, max_size=3),
    PLAIN.filter(lambda value: "nan" not in repr(value)),
    st.none() | st.floats(allow_nan=False),
)
def test_json_gives_back_an_equal_result(source, numbers, names, note, best):
    heat = Labelled(torch.tensor(numbers).reshape(2, 3), ("layer", "pos"), {"layer": (4, 5)}, "heat", "nats")
    provenance = ResultProvenance(**source)
    result = Heat(provenance=provenance, heat=heat, row=heat.sel(layer=4), names=names, notes=(note,), best=best)
    assert Heat.from_json(result.to_json()) == result
    assert Result.from_json(result.to_json()) == result


@given(PLAIN.filter(lambda x: "nan" not in repr(x)))
def test_plain_data_gives_back_equal_values(value):
    assert from_plain(to_plain(value)) == value
    assert frozen(value) == value


def test_a_file_gives_back_an_equal_result(tmp_path):
    result = some()
    result.to_json(tmp_path / "heat.json")
    assert Heat.from_json(tmp_path / "heat.json") == result
    assert Heat.from_json(str(tmp_path / "heat.json")) == result


def some():
    heat = Labelled(torch.arange(6.0).reshape(2, 3), ("layer", "pos"), name="heat", unit="nats")
    source = ResultProvenance(
        model="m", family="toy", prompts=("<script>alert(1)</script>",), tokens=(("a",),), ids=((1,),)
    )
    return Heat(provenance=source, heat=heat, row=heat.sel(layer=0), names={1: "a"}, notes=[1, [2]])


def test_lists_become_tuples_so_that_results_do_not_change():
    assert some().notes == (1, (2,))


def test_what_json_cannot_hold_is_named():
    with pytest.raises(NotSerialisable, match=r"cannot hold <object.*\(object\)"):
        Heat(provenance=some().provenance, heat=some().heat, row=some().row, names={}, notes=(object(),)).to_json()


def test_json_of_another_kind_is_refused_with_what_is_known():
    text = some().to_json().replace('"Heat"', '"Cold"')
    with pytest.raises(NotSerialisable, match=r"a Cold.*knows Heat"):
        Heat.from_json(text)
    with pytest.raises(NotSerialisable, match="no result"):
        Heat.from_json("{}")


def test_a_frame_takes_the_first_array_and_those_along_its_axes():
    pytest.importorskip("pandas", reason="pandas, the extra 'frame', is missing")
    frame = some().to_frame()
    assert frame.columns.tolist() == ["layer", "pos", "heat"]
    with pytest.raises(SelectorError, match="it has heat, row"):
        some().to_frame("cold")


def test_a_page_is_one_file_without_network_and_escapes_what_it_shows(tmp_path):
    page = some().to_html(tmp_path / "heat.html")
    assert (tmp_path / "heat.html").read_text() == page
    assert "<script>alert" not in page
    assert "http" not in page.lower()
    assert "&lt;script&gt;" in some()._repr_html_() or "&amp;lt;script" in some()._repr_html_()


def test_a_result_shows_its_arrays(capsys):
    some().show()
    assert "heat" in capsys.readouterr().out
