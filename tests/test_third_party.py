"""A plugin of somebody else, as pip installs it: the real project under ``third_party/``, and unwell ones beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent / "third_party"
LLAMA = """{"model_type": "llama", "vocab_size": 11, "hidden_size": 8, "intermediate_size": 8,
    "num_hidden_layers": 1, "num_attention_heads": 2}"""


def run(*command: str, path: Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program of this environment, which sees the plugins that lie in ``path``; far from any sources."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")]),
            "COLUMNS": "200",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def answer(code: str, path: Path, cwd: Path, **environment: str) -> str:
    """What a few lines of Python print."""
    done = run("-c", f"import mi_core as mi\nfrom mi_core.errors import *\n{code}", path=path, cwd=cwd, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip put the project; nothing is fetched."""
    target = tmp_path_factory.mktemp("site")
    # the backend that builds it comes with the extra `dev`
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*command, "--quiet", "--target", str(target), str(PROJECT)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return target


def write(folder: Path, distribution: str, entry_points: str, **modules: str) -> Path:
    """A distribution as it lies in site-packages."""
    info = folder / f"{distribution.replace('-', '_')}-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source)
    return folder


FAMILY: Mapping[str, str] = {
    "cannot_be_imported": "import a_package_that_nobody_has",
    "stops_the_program": "raise SystemExit(3)",
    "misspells_its_hook": (
        "from mi_core.hookspecs import hookimpl\n@hookimpl\ndef mi_famly(config):\n    raise NotImplementedError"
    ),
    "asks_for_too_much": (
        "from mi_core.hookspecs import hookimpl\n"
        "@hookimpl\ndef mi_family(config, weights):\n    raise NotImplementedError"
    ),
    "has_no_hook": "",
    "fails_when_called": (
        "from mi_core.hookspecs import hookimpl\n@hookimpl\ndef mi_family(config):\n    return 1 / 0"
    ),
    "returns_nonsense": (
        "from mi_core.hookspecs import hookimpl\n@hookimpl\ndef mi_family(config):\n    return 'a model'"
    ),
}
CAUSE = {
    "cannot_be_imported": "No module named 'a_package_that_nobody_has'",
    "stops_the_program": "SystemExit: 3",
    "misspells_its_hook": "mi_famly",
    "asks_for_too_much": "weights",
    "has_no_hook": "implements no mi_family",
    "fails_when_called": "ZeroDivisionError",
    "returns_nonsense": "returned str",
}


def test_an_installed_plugin_is_a_family_like_any_other(target: Path, tmp_path: Path) -> None:
    code = """
model = mi.build({"model_type": "mingru", "vocab_size": 31, "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 2})
run = model.run([[1, 2, 3]], mi.capture("blocks.*.mixer.hook_state"))
print(model.provenance.plugin, *run, list(run["blocks.1.mixer.state"].shape))
mi.save_model(model, "./checkpoint")
loaded = mi.load("./checkpoint")
print(loaded.provenance.family, bool((loaded.run([[1, 2, 3]]).logits == run.logits).all()))
"""
    first, second = answer(code, target, tmp_path).splitlines()
    assert first == "mi-mingru 0.1.0 blocks.0.mixer.hook_state blocks.1.mixer.hook_state [1, 3, 16]"
    assert second == "mingru True"


def test_its_own_suite_passes(target: Path, tmp_path: Path) -> None:
    command = ("-m", "pytest", "-q", "--rootdir", str(PROJECT), "-c", str(PROJECT / "pyproject.toml"), str(PROJECT))
    done = run(*command, path=target, cwd=tmp_path, MI_CHECK_EXAMPLES="2", PYTEST_ADDOPTS="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each unwell plugin is answered with, and at last what a plugin that is well says."""
    path = tmp_path_factory.mktemp("unwell")
    entries = "".join(f"{name} = {name}\n" for name in FAMILY)
    write(path, "mi-unwell", f"[mi_core.families]\n{entries}", **FAMILY)
    code = f"""
import json
said = {{}}
for name in {list(FAMILY)}:
    try:
        mi.build({{"model_type": name}})
    except BrokenPlugin as error:
        said[name] = f"{{error.distribution}} | {{error}}"
print(json.dumps(said | {{"well": mi.build({LLAMA}).name}}))
"""
    return dict(json.loads(answer(code, path, path)))


@pytest.mark.parametrize("what", FAMILY)
def test_a_broken_plugin_is_reported_with_its_distribution_and_cause(what: str, said: dict[str, str]) -> None:
    distribution, _, message = said[what].partition(" | ")
    assert distribution == "mi-unwell"
    assert "mi-unwell" in message
    assert CAUSE[what] in message


def test_a_broken_plugin_hurts_nobody_else(said: dict[str, str]) -> None:
    assert said["well"] == "llama"


def test_the_command_line_lists_what_is_broken_beside_what_is_not(tmp_path: Path) -> None:
    groups = "[mi_core.families]\nunwell = unwell_family\n[mi_core.commands]\nunwell = unwell_command\n"
    write(tmp_path, "mi-unwell", groups, unwell_family="import nowhere_1", unwell_command="import nowhere_2")
    models = run("-m", "mi_core.cli.main", "models", path=tmp_path, cwd=tmp_path)
    overview = run("-m", "mi_core.cli.main", "--help", path=tmp_path, cwd=tmp_path)
    assert (models.returncode, overview.returncode) == (0, 0)
    assert "llama" in models.stdout
    assert "mi-unwell 2.0" in models.stdout
    assert "nowhere_1" in models.stdout
    assert "lens" in overview.stdout
    assert "nowhere_2" in overview.stdout


def test_two_claims_on_one_name_are_a_conflict_that_names_both(tmp_path: Path) -> None:
    path = write(tmp_path, "mi-other-llama", "[mi_core.families]\nllama = other_llama\n", other_llama="")
    code = f"""
try:
    mi.build({LLAMA})
except PluginConflict as error:
    print(error.distributions, "|", error)
"""
    distributions, _, message = answer(code, path, tmp_path).partition(" | ")
    assert "'mi-core'" in distributions
    assert "'mi-other-llama'" in distributions
    assert "mi-other-llama 2.0" in message
    # and MI_PLUGINS decides
    assert answer(f"print(mi.build({LLAMA}).name)", path, tmp_path, MI_PLUGINS="mi-core") == "llama\n"


def test_a_plugin_that_nobody_uses_is_never_imported(tmp_path: Path) -> None:
    leaves_a_mark = f"open({str(tmp_path / 'imported')!r}, 'w').close()\n"
    groups = ("families", "analyses", "formats", "commands")
    entries = "".join(f"[mi_core.{group}]\nunused = unused_{group}\n" for group in groups)
    write(tmp_path, "mi-unused", entries, **{f"unused_{group}": leaves_a_mark for group in groups})
    code = f"mi.build({LLAMA}).run([[1, 2]])\nprint(mi.analysis('logit_lens').__name__)"
    assert answer(code, tmp_path, tmp_path) == "logit_lens\n"
    assert run("-m", "mi_core.cli.main", "lens", "--help", path=tmp_path, cwd=tmp_path).returncode == 0
    assert not (tmp_path / "imported").exists()
    # and the mark is no dead letter
    assert run("-m", "mi_core.cli.main", "unused", path=tmp_path, cwd=tmp_path).returncode == 2
    assert (tmp_path / "imported").exists()


def test_the_environment_limits_what_loads(target: Path, tmp_path: Path) -> None:
    code = """
import os
from mi_core import plugins
for allowed in ("", "mingru", "mi-mingru,nothing", "mi-core"):
    os.environ["MI_PLUGINS"] = allowed
    print("llama" in plugins.names("mi_core.families"), "mingru" in plugins.names("mi_core.families"))
"""
    both, by_name, by_distribution, ours = answer(code, target, tmp_path).splitlines()
    assert both == "True True"
    assert by_name == by_distribution == "False True"
    assert ours == "True False"
