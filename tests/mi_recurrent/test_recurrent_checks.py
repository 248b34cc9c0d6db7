"""The kit's checks of recurrence hold in every version; the whole kit runs on the families in its own test."""

from __future__ import annotations

import pytest

from mi_core.testing import CATALOGUE, Check, effort, subjects

CHECKS = [
    check
    for check in CATALOGUE
    if check.function.__module__ == "mi_core.testing.recurrence" or check.name == "check_memory_is_the_prefix"
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize("family", ["rwkv", "rwkv5", "rwkv6", "rwkv7"])
def test_recurrence_has_the_properties_of_the_kit(family: str, check: Check) -> None:
    subject = subjects(family)[0]
    with effort(2, shrink=False):
        assert check.applies(subject)
        check.function(subject)
