"""The examples in docstrings, of the packages as they are installed: editable, from a checkout or from the wheel."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from our_packages import PACKAGES


def modules() -> list[str]:
    """Every module of ours, by name; none is imported but the packages."""
    found = []
    for package in PACKAGES:
        found.append(package)
        path = importlib.import_module(package).__path__
        found += [
            info.name for info in pkgutil.walk_packages(path, f"{package}.") if not info.name.endswith("__main__")
        ]
    return found


class Finder(doctest.DocTestFinder):
    """Finds examples under the shape checks too, which wrap every function."""

    def _from_module(self, module: ModuleType | None, object: Any) -> bool:  # noqa: A002 - doctest's own name
        return super()._from_module(module, inspect.unwrap(object) if callable(object) else object)  # type: ignore[misc]


def examples(name: str) -> list[doctest.DocTest]:
    module = importlib.import_module(name)
    return [test for test in Finder(exclude_empty=True).find(module, name) if test.examples]


@pytest.mark.parametrize("name", modules())
def test_the_examples_of_a_module_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    for test in examples(name):
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        runner.run(test, out=said.append)
    assert not said, "".join(said)


def test_examples_of_classes_and_functions_are_found() -> None:
    assert {test.name for test in examples("mi_core.spec")} >= {"mi_core.spec.HookSpec", "mi_core.spec.capture"}
