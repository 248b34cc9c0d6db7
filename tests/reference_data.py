"""Reference data that is too large for the repository: a folder that the environment variable ``MI_FIXTURES`` names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def reference_folder(*parts: str) -> Path:
    """A folder of it; the test is skipped where there is none."""
    root = os.environ.get("MI_FIXTURES")
    if root is None:
        pytest.skip(reason="MI_FIXTURES names no folder of reference data: outputs of other libraries, trained weights")
    return Path(root).joinpath(*parts)
