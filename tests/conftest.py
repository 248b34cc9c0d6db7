"""The suite's own settings: shapes are checked, hypothesis has two profiles, torch keeps to one thread.

``MI_NO_SHAPE_CHECKS=1`` turns the shape checks off. ``HYPOTHESIS_PROFILE=dev`` (20 examples) or ``ci`` (100, the same
in every run) chooses a profile; without it ``CI`` does.
"""

from __future__ import annotations

import os

import hypothesis
import shape_checks
import torch
from our_packages import PACKAGES

# a project of its own, with its own settings: test_third_party.py runs its tests where it is installed
collect_ignore = ["third_party"]

if not os.environ.get("MI_NO_SHAPE_CHECKS"):
    shape_checks.install(PACKAGES)

torch.set_num_threads(1)

# a shared machine: wall clock says nothing about the code
hypothesis.settings.register_profile("dev", max_examples=20, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


def pytest_runtest_setup() -> None:
    """What a test draws without a seed of its own is the same in every run, whatever ran before."""
    torch.manual_seed(0)
