"""Every check, and which subjects it applies to."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from mi_core.testing import capturing, sites, writing
from mi_core.testing.subject import Subject

__all__ = ["CATALOGUE", "Check", "checks"]


def always(subject: Subject) -> bool:
    """It applies to every model."""
    return True


def causal(subject: Subject) -> bool:
    """It applies where a position sees no later one."""
    return subject.model.shape.causal


@dataclass(frozen=True)
class Check:
    """One property of a model: a function that raises `CheckFailed` where it does not hold."""

    function: Callable[[Subject], None]
    needs: tuple[str, ...] = ()
    """The sites without which there is nothing to check."""
    when: Callable[[Subject], bool] = always

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__

    @property
    def meaning(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def applies(self, subject: Subject) -> bool:
        """Whether the subject has what it is about."""
        return subject.offers(*self.needs) and self.when(subject)


SCORES: Final = "attn.hook_attn_scores"
PATTERN: Final = "attn.hook_pattern"

CATALOGUE: Final = (
    Check(sites.check_names_are_standard),
    Check(sites.check_points_fire_in_order),
    Check(capturing.check_capturing_changes_nothing),
    Check(capturing.check_captures_commute),
    Check(capturing.check_selected_captures_are_slices),
    Check(capturing.check_early_stop_equals_the_full_run),
    Check(writing.check_writing_back_changes_nothing),
    Check(writing.check_writable_points_are_live),
    Check(writing.check_interventions_compose_in_order),
    Check(writing.check_earlier_layers_are_untouched),
    Check(writing.check_earlier_positions_are_untouched, when=causal),
)
"""In the order in which they run: what explains most comes first."""


def checks(subject: Subject) -> Iterator[tuple[str, Callable[[], None]]]:
    """The checks that apply to a subject, by name, ready to be called."""
    for check in CATALOGUE:
        if check.applies(subject):
            yield check.name, functools.partial(check.function, subject)
