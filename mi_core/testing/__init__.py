"""The conformance kit: properties that every model must have, for any plugin's tests and for ``mi check``.

from mi_core.testing import conformance

@conformance("toy")
def test_toy(check):
    check()

Needs the extra ``test`` (hypothesis; pytest for `conformance` only).
"""

from mi_core.testing.catalogue import CATALOGUE, Check, checks
from mi_core.testing.delivery import conformance
from mi_core.testing.effort import effort
from mi_core.testing.reporting import Outcome, Report, run_checks
from mi_core.testing.subject import Subject, subjects

__all__ = [
    "CATALOGUE",
    "Check",
    "Outcome",
    "Report",
    "Subject",
    "checks",
    "conformance",
    "effort",
    "run_checks",
    "subjects",
]
