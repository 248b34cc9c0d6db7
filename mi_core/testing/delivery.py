"""The kit as pytest tests: one for each check and example config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from mi_core.errors import UnknownCheck
from mi_core.testing.catalogue import CATALOGUE, checks
from mi_core.testing.effort import MANY, ONE, effort
from mi_core.testing.subject import Source, Subject, subjects

__all__ = ["conformance"]

Test = TypeVar("Test", bound=Callable[..., Any])

collected: list[Subject] = []
"""Every subject of this process: one is looked at closely, many quickly."""


def conformance(
    source: Source, *, expected_failures: Mapping[str, str] | None = None, examples: int | None = None, seed: int = 0
) -> Callable[[Test], Test]:
    """Make a test of the conformance kit: one for each check that applies, and each example config.

    Args:
        source: a family's name, a folder with a checkpoint, a model, or a function that returns one.
        expected_failures: check -> why it fails. Strict: an expected failure that passes is a failure.
        examples: how many examples each check tries; else 100, or 10 where the suite has several subjects, or
            ``MI_CHECK_EXAMPLES``.
        seed: of the weights and of the examples.

    Raises:
        UnknownCheck: ``expected_failures`` names a check that does not exist.
    """
    import pytest

    expected = dict(expected_failures or {})
    known = [check.name for check in CATALOGUE]
    unknown = sorted(set(expected) - set(known))
    if unknown:
        raise UnknownCheck(f"expected_failures names {unknown}, which are no checks. There are: {', '.join(known)}.")
    parameters = []
    for subject in subjects(source, seed=seed):
        collected.append(subject)
        for name, call in checks(subject):
            marks = [pytest.mark.xfail(reason=expected[name], strict=True)] if name in expected else []
            parameters.append(
                pytest.param(paced(call, subject, examples, seed), id=f"{subject.name}-{name}", marks=marks)
            )
    return pytest.mark.parametrize("check", parameters)


def paced(call: Callable[[], None], subject: Subject, examples: int | None, seed: int) -> Callable[[], None]:
    """A check that tries as many examples as the suite has time for, which is known when it runs."""

    def check() -> None:
        wanted = (ONE if len(collected) == 1 else MANY) if examples is None else examples
        with effort(wanted, seed=seed), subject.threads():
            call()

    return check
