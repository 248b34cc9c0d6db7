"""What is installed is what was promised: pins, extras, entry points, one version, and commands that CI runs."""

from __future__ import annotations

import importlib
import re
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
CI = ROOT / ".ci" / "run"
EXTRAS = {"test": {"pytest", "hypothesis", "beartype"}, "frame": {"pandas"}, "probing": {"scikit-learn"}}
EXTRAS |= {"quantised": {"torchao"}}


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in found}


def required(name: str, extra: str, seen: set[tuple[str, str]]) -> Iterator[str]:
    """Every distribution that this one needs on this machine, as far as it is installed."""
    if (name, extra) in seen:
        return
    seen.add((name, extra))
    try:
        needed = [Requirement(line) for line in distribution(name).requires or ()]
    except PackageNotFoundError:
        return
    yield name
    for requirement in needed:
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            for inner in ("", *requirement.extras):
                yield from required(canonicalize_name(requirement.name), inner, seen)


def test_every_pin_is_one_version() -> None:
    for name, pin in pins().items():
        (specifier,) = pin.specifier
        assert specifier.operator == "==", name
        assert pin.marker is None, name


def test_everything_that_the_extra_dev_brings_is_pinned() -> None:
    needed = set(required("mi-core", "dev", set())) - {"mi-core"}
    assert {"torch", "transformers", "pytest"} <= needed
    # what only some builds of torch bring, such as CUDA's libraries, is pinned by torch itself
    assert {name for name in needed - set(pins()) if not name.startswith(("nvidia-", "cuda-", "triton"))} == set()


def test_the_ranges_stay_open_upwards() -> None:
    for line in distribution("mi-core").requires or ():
        operators = {specifier.operator for specifier in Requirement(line).specifier}
        assert operators <= {">="}, line


def test_the_pins_are_within_the_ranges() -> None:
    for line in distribution("mi-core").requires or ():
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if name != "mi-core":
            (pin,) = pins()[name].specifier
            assert Version(pin.version) in requirement.specifier, line


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_extras_are_what_they_were(extra: str) -> None:
    lines = [Requirement(line) for line in distribution("mi-core").requires or ()]
    found = {line.name for line in lines if line.marker and line.marker.evaluate({"extra": extra})}
    always = {line.name for line in lines if not line.marker}
    assert found - always == EXTRAS[extra]


def test_every_entry_point_names_a_module_that_is_there() -> None:
    entries = [entry for entry in distribution("mi-core").entry_points if entry.group.startswith("mi_core.")]
    assert {"mi_core.families", "mi_core.analyses", "mi_core.registry", "mi_core.commands"} <= {
        entry.group for entry in entries
    }
    for entry in entries:
        importlib.import_module(entry.value)


def test_one_version_everywhere() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\d\S*)", changes, re.MULTILINE)
    assert newest is not None
    assert newest[1] == distribution("mi-core").version


def readme_commands() -> list[str]:
    """Every command of the README's shell blocks, chains taken apart."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [part.strip() for block in found for line in block.splitlines() for part in line.split("&&")]


def test_the_readme_s_two_commands_are_as_promised() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert 'pip install -c constraints.txt . && mi lens tiny-world "The capital of France is"\n' in text
    assert "pip install -c constraints.txt '.[dev]' && pytest\n" in text


def test_ci_runs_the_readme_s_commands_word_for_word() -> None:
    lines = [line.strip() for line in CI.read_text(encoding="utf-8").splitlines()]
    for command in ("pip install -c constraints.txt '.[dev]'", "pytest"):
        assert command in readme_commands()
        assert command in lines
    assert 'mi lens tiny-world "The capital of France is"' in readme_commands()
    assert 'mi lens tiny-world "The capital of France is"' in lines


def test_ci_stops_at_the_first_failure() -> None:
    text = CI.read_text(encoding="utf-8")
    assert "\nset -euo pipefail\n" in text
    # a failure left of these would be passed over
    commands = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    assert not [line for line in commands if re.search(r"\|\| *(true|:)|pytest.*[|&]{2}", line)]
    subprocess.run(["bash", "-n", str(CI)], check=True)
