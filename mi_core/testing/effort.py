"""How hard a check tries: how many examples, from which seed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.errors import Flaky, HypothesisException

from mi_core.errors import CheckFailed

__all__ = ["MANY", "ONE", "Effort", "effort", "for_examples"]

ONE: Final = 100
"""Examples for each check where one subject is looked at."""
MANY: Final = 10
"""Examples for each check where a suite looks at many."""


@dataclass(frozen=True)
class Effort:
    """How hard a check tries; the environment variable ``MI_CHECK_EXAMPLES`` overrides ``examples``."""

    examples: int = ONE
    seed: int = 0
    shrink: bool = True
    """Whether a failing example is made small before it is shown."""

    @property
    def wanted(self) -> int:
        """Examples, at least one."""
        return max(1, int(os.environ.get("MI_CHECK_EXAMPLES") or self.examples))


current: ContextVar[Effort] = ContextVar("mi_check_effort")


@contextmanager
def effort(examples: int = ONE, *, seed: int = 0, shrink: bool = True) -> Iterator[None]:
    """Checks called in this block try so many examples, drawn from this seed.

    >>> with effort(3):
    ...     current.get().examples
    3
    """
    token = current.set(Effort(examples, seed, shrink))
    try:
        yield
    finally:
        current.reset(token)


def for_examples(
    holds: Callable[..., None], *, always: Iterable[Mapping[str, Any]] = (), **strategies: st.SearchStrategy[Any]
) -> None:
    """Call a property with drawn arguments; ``always`` holds arguments that are tried whatever is drawn.

    The same seed draws the same examples. The error of the smallest failing example is raised as it is.
    """
    for arguments in always:
        holds(**arguments)
    effort_ = current.get(Effort())
    last: list[Exception] = []

    def holds_for(drawn: dict[str, Any]) -> None:
        try:
            holds(**drawn)
        except HypothesisException:
            raise
        except Exception as error:
            last[:] = [error]
            raise

    chosen = settings(
        max_examples=effort_.wanted,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[Phase.generate, *([Phase.shrink] if effort_.shrink else [])],
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    try:
        seeded(effort_.seed)(chosen(given(st.fixed_dictionaries(strategies))(holds_for)))()
    except Flaky as error:
        if not last:
            raise
        raise CheckFailed(
            f"{last[0]}\n  and again with the same arguments: no failure. The answer depends on what ran before."
        ) from error
