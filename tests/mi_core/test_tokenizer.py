from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import tiny_tokenizers

from mi_core import plugins
from mi_core.config import Config
from mi_core.errors import NoTokenizer
from mi_core.files import Files
from mi_core.hookspecs import hookimpl
from mi_core.json_tokenizer import JsonTokenizer
from mi_core.tokenizer import RendersChats, Tokenizer, find_tokenizer, no_tokenizer


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Two plugins of mi_core.tokenizers: one that cannot be imported, and one that the test fills."""
    module = types.ModuleType("toy_tokenizer_plugin")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    claims = (
        plugins.Claim("mi_core.tokenizers", "broken", "no_such_module_anywhere", "toy-broken", "1"),
        plugins.Claim("mi_core.tokenizers", "toy", module.__name__, "toy", "1"),
    )
    monkeypatch.setattr(plugins, "installed", lambda: claims)
    plugins.imported.cache_clear()
    return module


def answer(module: types.ModuleType, found: Any) -> list[Files]:
    asked: list[Files] = []

    @hookimpl
    def mi_tokenizer(files: Files, config: Config) -> Any:
        asked.append(files)
        return found

    module.mi_tokenizer = mi_tokenizer  # type: ignore[attr-defined]
    return asked


def test_a_tokenizer_json_is_found_and_keeps_the_protocol(tmp_path: Path) -> None:
    found = find_tokenizer(Files(tiny_tokenizers.save(tmp_path, tiny_tokenizers.byte_level())), Config({}))
    assert isinstance(found, JsonTokenizer)
    assert isinstance(found, Tokenizer)
    assert isinstance(found, RendersChats)


def test_a_folder_without_one_has_none_and_the_error_names_what_was_looked_for(tmp_path: Path) -> None:
    assert find_tokenizer(Files(tmp_path), Config({})) is None
    error = no_tokenizer("toy")
    assert isinstance(error, NoTokenizer)
    assert str(error).startswith("toy has no tokenizer: looked for tokenizer.json and asked the plugins")
    assert error.files == ("tokenizer.json",)


def test_a_plugin_reads_what_is_no_tokenizer_json(tmp_path: Path, plugged: types.ModuleType) -> None:
    files = Files(tmp_path)
    theirs = JsonTokenizer(Files(tiny_tokenizers.save(tmp_path / "elsewhere", tiny_tokenizers.words())))
    asked = answer(plugged, theirs)
    assert find_tokenizer(files, Config({})) is theirs
    assert asked == [files]


def test_plugins_are_not_even_imported_where_a_tokenizer_json_is(tmp_path: Path, plugged: types.ModuleType) -> None:
    asked = answer(plugged, "a tokenizer")
    assert isinstance(
        find_tokenizer(Files(tiny_tokenizers.save(tmp_path, tiny_tokenizers.words())), Config({})), JsonTokenizer
    )
    assert not asked


def test_a_broken_plugin_hurts_nobody_and_is_reported_when_a_tokenizer_is_missed(
    tmp_path: Path, plugged: types.ModuleType
) -> None:
    answer(plugged, None)
    assert find_tokenizer(Files(tmp_path), Config({})) is None
    assert "from toy-broken 1, cannot be imported" in str(no_tokenizer("toy"))
