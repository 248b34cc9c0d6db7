from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_family import installed

from mi_core import plugins
from mi_core.errors import BadConfig, BrokenPlugin, PluginConflict, UnknownPlugin

FAMILIES = "mi_core.families"
GOOD = """
from mi_core.hookspecs import hookimpl
@hookimpl
def mi_family(config, tensors):
    return ("good", config)
"""
BROKEN = {
    "raises": ("raise RuntimeError('no such GPU')", "RuntimeError: no such GPU"),
    "exits": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "imports": ("import a_module_that_nobody_has", "a_module_that_nobody_has"),
    "syntax": ("def mi_family(:", "SyntaxError"),
    "misspelt": (GOOD + "@hookimpl\ndef mi_famly_examples(): pass\n", "mi_famly_examples"),
    "arguments": (GOOD.replace("(config, tensors)", "(config, tensor)"), "'tensor'"),
    "unmarked": (GOOD.replace("@hookimpl", ""), "without @hookimpl"),
    "empty": ("", "implements no mi_family"),
}


@pytest.fixture
def good(tmp_path: Path) -> Iterator[Path]:
    with installed(tmp_path / "good", "good-models", {FAMILIES: {"good": "good_module"}}, {"good_module": GOOD}):
        yield tmp_path


def test_a_plugin_is_imported_at_its_first_use_and_asked_alone(good: Path) -> None:
    assert plugins.names(FAMILIES)["good"] == "good-models"
    assert "good_module" not in sys.modules
    found = plugins.plugin(FAMILIES, "good")
    assert (found.name, found.distribution, found.version) == ("good", "good-models", "1.0")
    assert found.call("mi_family", config=3, tensors=None) == ("good", 3)
    assert found.implements("mi_family")
    assert not found.implements("mi_family_examples")
    assert plugins.plugin(FAMILIES, "good") is found


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_names_its_distribution_and_cause_and_hurts_nobody_else(good: Path, kind: str) -> None:
    source, cause = BROKEN[kind]
    with installed(good / "bad", "bad-models", {FAMILIES: {"bad": f"bad_{kind}"}}, {f"bad_{kind}": source}):
        with pytest.raises(BrokenPlugin) as caught:
            plugins.plugin(FAMILIES, "bad")
        for part in (cause, "bad-models 1.0", "'bad'"):
            assert part in str(caught.value)
        assert caught.value.distribution == "bad-models"
        assert plugins.plugin(FAMILIES, "good").call("mi_family", config=1, tensors=None) == ("good", 1)
        assert [error.data["distribution"] for error in plugins.report([FAMILIES])] == ["bad-models"]


def test_wrong_arguments_name_the_hook(good: Path) -> None:
    source, _ = BROKEN["arguments"]
    with (
        installed(good / "bad", "bad-models", {FAMILIES: {"bad": "bad_arguments"}}, {"bad_arguments": source}),
        pytest.raises(BrokenPlugin, match="mi_family"),
    ):
        plugins.plugin(FAMILIES, "bad")


def test_an_error_inside_a_hook_names_the_plugin_but_errors_of_ours_pass(good: Path) -> None:
    source = GOOD.replace('return ("good", config)', "raise config")
    with installed(good / "bad", "bad-models", {FAMILIES: {"bad": "bad_raising"}}, {"bad_raising": source}):
        found = plugins.plugin(FAMILIES, "bad")
        with pytest.raises(BrokenPlugin, match=r"bad-models 1\.0, failed in mi_family: KeyError: 'x'"):
            found.call("mi_family", config=KeyError("x"), tensors=None)
        with pytest.raises(BadConfig, match="absurd"):
            found.call("mi_family", config=BadConfig("absurd"), tensors=None)


def test_two_claims_on_one_name_are_a_conflict_that_hurts_nobody_else(
    good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = {FAMILIES: {"good": "other_module", "better": "other_module"}}
    with installed(good / "other", "other-models", mine, {"other_module": GOOD}):
        with pytest.raises(PluginConflict, match=r"other-models 1\.0 and good-models 1\.0"):
            plugins.plugin(FAMILIES, "good")
        assert plugins.plugin(FAMILIES, "better").distribution == "other-models"
        assert plugins.names(FAMILIES)["good"] == "other-models and good-models"
        assert [type(error) for error in plugins.report([FAMILIES])] == [PluginConflict]
        monkeypatch.setenv("MI_PLUGINS", "Good_Models, nobody")
        assert plugins.plugin(FAMILIES, "good").distribution == "good-models"
        with pytest.raises(UnknownPlugin, match="Only MI_PLUGINS=Good_Models, nobody"):
            plugins.plugin(FAMILIES, "better")


def test_mi_plugins_takes_names_of_entry_points_too(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MI_PLUGINS", "good")
    assert list(plugins.names(FAMILIES)) == ["good"]
    monkeypatch.setenv("MI_PLUGINS", "else")
    assert plugins.names(FAMILIES) == {}


def test_a_distribution_that_is_found_twice_is_no_conflict(good: Path) -> None:
    with installed(good / "again", "good_models", {FAMILIES: {"good": "again_module"}}, {"again_module": GOOD}):
        assert plugins.plugin(FAMILIES, "good").module.__name__ == "again_module"


def test_a_slow_plugin_costs_those_who_use_it_only(good: Path) -> None:
    source = "raise AssertionError('imported without being used')"
    with installed(good / "slow", "slow-models", {FAMILIES: {"slow": "slow_module"}}, {"slow_module": source}):
        plugins.names(FAMILIES)
        plugins.plugin(FAMILIES, "good")
        assert "slow_module" not in sys.modules


def test_an_unknown_name_is_answered_with_the_closest(good: Path) -> None:
    with pytest.raises(UnknownPlugin, match=r"'goood'\. Closest: good \(from good-models\)"):
        plugins.plugin(FAMILIES, "goood")


def test_nothing_is_wrong_with_the_plugins_that_are_installed() -> None:
    assert plugins.report() == []
