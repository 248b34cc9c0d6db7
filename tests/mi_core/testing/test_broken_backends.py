from __future__ import annotations

import re

import pytest
from broken_backends import BROKEN, CONFIG, Wrapped, broken

from mi_core.errors import MiError
from mi_core.testing import CATALOGUE, effort

CASES = [(name, what) for name, ways in BROKEN.items() for what in ways]


@pytest.mark.parametrize(("name", "what"), CASES, ids=lambda case: getattr(case, "__name__", case))
def test_every_check_refuses_what_is_broken_for_it(name, what):
    check = next(check for check in CATALOGUE if check.name == name)
    with broken(what) as subject, effort(20, shrink=False):
        assert check.applies(subject)
        with pytest.raises((AssertionError, MiError)) as refused:
            check.function(subject)
    assert re.search(r"\w+ \w+", str(refused.value))


def test_every_check_has_something_broken_that_it_refuses():
    assert [check.name for check in CATALOGUE if not BROKEN.get(check.name)] == []
    assert sorted(BROKEN) == sorted(check.name for check in CATALOGUE)


@pytest.mark.parametrize("check", CATALOGUE, ids=lambda check: check.name)
def test_no_check_refuses_the_wrapping_itself(check):
    own = BROKEN[check.name][0]
    # the class that says which model is wrapped
    what = next(base for base in own.__mro__ if "config" in vars(base)) if isinstance(own, type) else Wrapped
    with broken(what) as subject, effort(5):
        assert check.applies(subject), CONFIG
        check.function(subject)
