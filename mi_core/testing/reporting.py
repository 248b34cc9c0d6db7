"""The kit without pytest: run the checks, time them, and account for them."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mi_core.errors import CheckFailed, UnknownCheck
from mi_core.testing.catalogue import CATALOGUE, Check
from mi_core.testing.effort import ONE, Effort, effort
from mi_core.testing.subject import Source, Subject, subjects
from mi_core.testing.weights import check_weights_are_finite

__all__ = ["Outcome", "Report", "run_checks"]


@dataclass(frozen=True)
class Outcome:
    """How one check went on one subject."""

    check: str
    meaning: str
    subject: str
    seconds: float
    examples: int
    problem: str = ""
    """What was wrong; empty where the property holds."""

    @property
    def passed(self) -> bool:
        """Whether the property holds."""
        return not self.problem


@dataclass
class Report:
    """How the checks went, in the order in which they ran."""

    source: str
    outcomes: list[Outcome] = field(default_factory=list)
    interrupted: bool = False
    stopped: str = ""
    """Why not everything was checked; empty where it was."""

    @property
    def passed(self) -> bool:
        """Whether everything that was to be checked was, and holds."""
        return bool(self.outcomes) and not self.stopped and all(outcome.passed for outcome in self.outcomes)

    @property
    def failures(self) -> list[Outcome]:
        """The properties that do not hold."""
        return [outcome for outcome in self.outcomes if not outcome.passed]


def run_checks(
    source: Source,
    *,
    only: Sequence[str] = (),
    examples: int = ONE,
    seed: int = 0,
    progress: Callable[[Subject, Check, int, int], None] | None = None,
) -> Report:
    """Does this plugin, checkpoint or model keep the contract? Every check that applies, on every example config.

    Ctrl-C keeps what is known so far, and so does a checkpoint with NaN in it. ``progress`` is called before each
    check, with its number and how many there are.

    Raises:
        UnknownCheck: ``only`` names a check that does not exist, or that applies to nothing here.
    """
    chosen = named(only)
    plan = [(subject, check) for subject in subjects(source, seed=seed) for check in chosen if check.applies(subject)]
    if not plan:
        names = [check.name for check in chosen]
        raise UnknownCheck(f"none of {names} applies to {source!r}: it lists no such site.", names=names)
    report = Report(str(source))
    try:
        for number, (subject, check) in enumerate(plan):
            if progress is not None:
                progress(subject, check, number, len(plan))
            report.outcomes.append(outcome_of(subject, check, examples, seed))
            if check.function is check_weights_are_finite and not report.outcomes[-1].passed:
                report.stopped = "there: with NaN among the weights no other property can hold"
                break
    except KeyboardInterrupt:
        report.interrupted, report.stopped = True, f"by Ctrl-C after {len(report.outcomes)} of {len(plan)} checks"
    return report


def named(only: Sequence[str]) -> list[Check]:
    """The checks of these names, with or without ``check_``; all for none."""
    known = [check.name for check in CATALOGUE]
    wanted = {name if name.startswith("check_") else f"check_{name}" for name in only}
    for name in sorted(wanted - set(known)):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownCheck(f"there is no check {name!r}.{hint} There are: {', '.join(known)}.", name=name)
    return [check for check in CATALOGUE if not wanted or check.name in wanted]


def outcome_of(subject: Subject, check: Check, examples: int, seed: int) -> Outcome:
    """One check on one subject; whatever it raises is a failure, told in full."""
    began, problem = time.perf_counter(), ""
    try:
        with effort(examples, seed=seed), subject.threads():
            check.function(subject)
    except CheckFailed as error:
        problem = str(error)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    wanted = Effort(examples).wanted
    return Outcome(check.name, check.meaning, subject.name, time.perf_counter() - began, wanted, problem)
