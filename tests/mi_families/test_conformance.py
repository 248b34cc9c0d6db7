"""The conformance kit passes for every family: of each, the first example, looked at quickly.

`mi check FAMILY` looks at all examples, and closely.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mi_core import plugins

FAMILIES = [
    name
    for name, distribution in plugins.names("mi_core.families").items()
    if distribution.startswith("mi-core")
    and name not in ("rwkv5", "rwkv6")  # rwkv7 stands for them; tests/mi_recurrent checks the recurrence of all
    and not Path(__file__).with_name(f"test_{name}.py").exists()
]

PROCESSES = 4
"""As many families at a time as give each process the same work; to start one for each family would take longer."""

# in processes of their own, without the checks of shapes at every call, which take three times as long as the kit
KIT = """
import json, sys
from mi_core.testing import run_checks, subjects

problems = {}
for family in sys.argv[1:]:
    report = run_checks(subjects(family)[0], examples=1)
    problems[family] = [f"{found.check}: {found.problem}" for found in report.failures]
    problems[family] += [] if len(report.outcomes) >= 30 else [f"only {len(report.outcomes)} checks ran"]
print(json.dumps(problems))
"""


@pytest.mark.parametrize("part", range(PROCESSES))
def test_the_kit_passes(part: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KIT, *FAMILIES[part::PROCESSES]],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    problems: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    found = [f"{family}, {problem}" for family, listed in problems.items() for problem in listed]
    assert not found, "\n".join(found)
