from __future__ import annotations

from pathlib import Path

import pytest
from toy_family import CONFIG, installed, write_checkpoint

from mi_core import registry
from mi_core.errors import BrokenPlugin, PluginConflict

PLUGIN = """
from importlib import resources
from mi_core.hookspecs import hookimpl
@hookimpl
def mi_registry():
    return resources.files(__name__)
"""


def collection(root: Path, name: str, pages: dict[str, str]) -> object:
    package = root / name / f"{name}_pages"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(PLUGIN)
    for page, text in pages.items():
        (package / f"{page}.toml").write_text(text)
    write_checkpoint(package / "toy_model")
    return installed(root / name, name, {"mi_core.registry": {name: f"{name}_pages"}})


def test_a_page_is_found_by_name_and_leads_to_the_embedded_model(tmp_path: Path) -> None:
    with collection(tmp_path, "shelf_a", {"toy-model": 'embedded = "toy_model"\nfacts = 3', "toy": "read = true"}):  # type: ignore[attr-defined]
        pages = registry.pages()
        assert pages["toy-model"].data["facts"] == 3
        assert pages["toy-model"].distribution == "shelf_a"
        assert pages["toy"].embedded is None
        files = registry.embedded("toy-model")
        assert files is not None
        assert files.read_json("config.json") == CONFIG
        assert registry.embedded("toy") is None
        assert registry.embedded("nobody") is None
        assert registry.page("nobody") is None


def test_a_broken_page_hurts_nobody_else(tmp_path: Path) -> None:
    with collection(tmp_path, "shelf_b", {"good-page": "a = 1", "bad-page": "a = = 1"}):  # type: ignore[attr-defined]
        assert "good-page" in registry.pages()
        assert "bad-page" not in registry.pages()
        with pytest.raises(BrokenPlugin, match=r"bad-page\.toml.*shelf_b"):
            registry.page("bad-page")


def test_two_pages_of_one_name_are_a_conflict_when_it_is_asked_for(tmp_path: Path) -> None:
    with (
        collection(tmp_path, "shelf_c", {"one": "a = 1", "both": "a = 1"}),  # type: ignore[attr-defined]
        collection(tmp_path, "shelf_d", {"both": "a = 2"}),  # type: ignore[attr-defined]
    ):
        assert registry.pages()["one"].data == {"a": 1}
        with pytest.raises(PluginConflict, match="shelf_c"):
            registry.embedded("both")


def test_a_broken_registry_hides_its_own_pages_only(tmp_path: Path) -> None:
    bad = installed(tmp_path / "bad", "bad-shelf", {"mi_core.registry": {"bad": "bad_shelf"}}, {"bad_shelf": "1 / 0"})
    with bad, collection(tmp_path, "shelf_e", {"one": "a = 1"}):  # type: ignore[attr-defined]
        assert registry.pages()["one"].data == {"a": 1}
