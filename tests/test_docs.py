"""The guide is true: its code runs, its outputs are what is printed, and what is written by a program is up to date."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mi_core import hookspecs

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(ROOT)): path for path in (ROOT / "README.md", *sorted(DOCS.glob("*.md")))}
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    return from_docs("pages")


def from_docs(name: str) -> ModuleType:
    """A module that lies beside the pages."""
    sys.path.insert(0, str(DOCS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(DOCS))


@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs_and_prints_what_is_shown(
    page: str, pages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for block, printed in pages.run_page(PAGES[page]):
        if block.shown is not None:
            assert not pages.differs(block.shown, printed), (
                f"{page}, line {block.line}: shown is\n{block.shown}\nprinted is\n{printed}\n"
                "If the new output is right, run: python docs/generate.py"
            )


def test_what_is_generated_is_up_to_date() -> None:
    for path, text in from_docs("generate").generated().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is stale: run python docs/generate.py"


def test_every_hook_is_in_the_plugin_guide_with_its_docstring() -> None:
    guide = (DOCS / "writing_a_plugin.md").read_text(encoding="utf-8")
    hooks = {name: function for name, function in vars(hookspecs).items() if name.startswith("mi_")}
    assert len(hooks) >= 7
    for name, function in hooks.items():
        assert f"#### `{name}(" in guide
        assert (function.__doc__ or "").strip().partition("\n")[0] in guide


def test_links_between_pages_lead_somewhere() -> None:
    for page, path in PAGES.items():
        for target in LINK.findall(path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{page} links to {target}"


def test_every_page_of_the_guide_is_linked_from_the_readme() -> None:
    linked = set(LINK.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    assert {f"docs/{path.name}" for path in PAGES.values() if path.parent == DOCS} <= linked


@pytest.mark.parametrize("page", PAGES)
def test_a_page_reads_in_one_sitting(page: str) -> None:
    written = PAGES[page].read_text(encoding="utf-8").partition("<!-- hooks:")[0]
    prose = re.sub(r"^```.*?^```$", "", written, flags=re.MULTILINE | re.DOTALL)
    assert len(written.splitlines()) <= 210
    assert len(prose.splitlines()) <= 150


@pytest.mark.parametrize(
    ("shown", "printed", "different"),
    [
        ("a 1.00 b", "a  1.01\nb", False),
        ("a 1.00 b", "a 1.20 b", True),
        ("12 tokens", "13 tokens", True),
        ("a 0.0 b", "a 1e-07 b", False),
        ("a ... c", "a b b c", False),
        ("a ... c", "a b b", True),
        ("one", "other", True),
        ("blocks.3.hook", "blocks.4.hook", True),
    ],
)
def test_outputs_are_compared_by_words_and_by_numbers(
    shown: str, printed: str, different: bool, pages: ModuleType
) -> None:
    assert pages.differs(shown, printed) is different


def test_an_error_that_is_not_shown_fails(pages: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text('```python\nimport mi_core as mi\nmi.load("./nowhere")\n```\n')
    with pytest.raises(mi_error()):
        list(pages.run_page(page))


def mi_error() -> type[Exception]:
    from mi_core.errors import ModelNotFound

    return ModelNotFound
