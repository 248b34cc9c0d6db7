from __future__ import annotations

import copy
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mi_core
from mi_core import errors

CLASSES = [getattr(errors, name) for name in errors.__all__]


def drawn() -> dict[str, str]:
    """Class -> its parent, as the tree in the docstring has them."""
    parents: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^    ([│ ]*)(?:[├└]── )?([A-Z]\w+)", line)
        if found and ("──" in line or line.strip() == "MiError"):
            depth = len(found[1]) // 4 + ("──" in line)
            above[depth:] = [found[2]]
            parents[found[2]] = above[depth - 1] if depth else "Exception"
    return parents


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    assert drawn() == {cls.__name__: cls.__bases__[0].__name__ for cls in CLASSES}


def test_every_error_is_listed_once_and_in_order() -> None:
    defined = [name for name, value in vars(errors).items() if isinstance(value, type)]
    assert sorted(errors.__all__) == sorted(defined)
    assert list(errors.__all__) == sorted(errors.__all__)


@given(
    st.sampled_from(CLASSES), st.text(), st.dictionaries(st.from_regex(r"[a-z]{3,8}_x", fullmatch=True), st.integers())
)
def test_errors_keep_their_data_through_pickle_and_copies(
    cls: type[errors.MiError], message: str, data: dict[str, int]
) -> None:
    error = cls(message, **data)
    for same in (error, pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(same) is cls
        assert str(same) == message
        assert same.data == data
        assert all(getattr(same, name) == value for name, value in data.items())


def test_an_absent_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'b'.*\['a'\]"):
        _ = errors.MiError("x", a=1).b
    assert not hasattr(errors.MiError("x"), "__fspath__")


def test_the_door_lists_what_it_has() -> None:
    # constants first, as the linter sorts
    assert list(mi_core.__all__) == sorted(mi_core.__all__, key=lambda name: (not name.isupper(), name))
    assert all(hasattr(mi_core, name) for name in mi_core.__all__)
