"""The budget of errors in reduced precision names every family, once."""

from __future__ import annotations

import re
from pathlib import Path

from mi_core import plugins

PAGE = Path(__file__).resolve().parents[2] / "docs" / "accuracy.md"


def test_every_family_has_its_line() -> None:
    table, *_ = PAGE.read_text(encoding="utf-8").partition("<!-- end -->")
    listed = re.findall(r"^\| `([^`]+)` \| [\d.]+% \|", table, re.MULTILINE)
    ours = [name for name, owner in plugins.names("mi_core.families").items() if owner.startswith("mi-core")]
    assert sorted(listed) == sorted(ours), "python docs/accuracy.py FAMILY ... writes the lines that are missing"
