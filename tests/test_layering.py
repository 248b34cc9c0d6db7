"""Rules of the house that no linter sees: names in strings, sizes of files, public names, skips."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

from our_packages import PACKAGES

from mi_core import plugins
from mi_core.names import MIXERS

PLUGIN_GROUPS = ("mi_core.families", "mi_core.analyses", "mi_core.registry")
HERE = Path(__file__).parent
LONGEST = 400
SKIPS = ("skip", "skipif", "xfail", "importorskip")


def sources(package: str) -> dict[str, Path]:
    """Module -> file, of the package as it is installed."""
    found = {}
    for folder in importlib.import_module(package).__path__:
        for path in sorted(Path(folder).rglob("*.py")):
            parts = path.relative_to(Path(folder).parent).with_suffix("").parts
            found[".".join(parts)] = path
    return found


EVERY = {name: path for package in PACKAGES for name, path in sources(package).items()}
CORE = {name: path for name, path in EVERY.items() if name.startswith("mi_core.")}
TESTS = {f"tests/{path.relative_to(HERE)}": path for path in sorted(HERE.rglob("*.py"))}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def strings(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Every string that is no docstring, with its line."""
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(module)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.lineno, node.value


def forbidden_in_the_core() -> re.Pattern[str]:
    """Our other packages, and the names of our own plugins; ``mi_registry`` is also a hook of the contract."""
    entries = [entry for entry in distribution("mi-core").entry_points if entry.group in PLUGIN_GROUPS]
    # as hook names and as a spelling of the mixer these are the core's own words
    names = {*PACKAGES[1:], *(entry.name for entry in entries)} - {*plugins.HOOKS.values(), *MIXERS}
    names -= {"hooked_transformer"}  # what mi_core.compat.transformer_lens is about, whoever reads its configs
    return re.compile(rf"\b({'|'.join(sorted(names))})\b|\bmi_registry[./]")


def test_the_core_knows_no_plugin_even_by_a_string() -> None:
    forbidden = forbidden_in_the_core()
    seen = [
        f"{name}, line {line}: {said!r}"
        for name, path in CORE.items()
        for line, said in strings(tree(path))
        if forbidden.search(said)
    ]
    assert seen == []


def test_the_names_that_are_forbidden_are_the_ones_that_are_installed() -> None:
    forbidden = forbidden_in_the_core()
    assert all(forbidden.search(f"like {name} here") for name in ("llama", "logit_lens", "mi_families.x"))
    assert forbidden.search("mi_registry/tiny.toml")
    assert not forbidden.search("mi_registry")
    assert not forbidden.search("llamas")


def test_files_read_in_one_sitting() -> None:
    lines = {name: path.read_text(encoding="utf-8").count("\n") for name, path in {**EVERY, **TESTS}.items()}
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}


def declares(module: ast.Module) -> bool:
    """Whether there is anything to declare: a class or a function that is no hook."""
    return any(
        isinstance(node, ast.ClassDef)
        or (isinstance(node, ast.FunctionDef) and not any(hook_mark(mark) for mark in node.decorator_list))
        for node in module.body
    )


def hook_mark(mark: ast.expr) -> bool:
    return isinstance(mark, ast.Name) and mark.id in ("hookimpl", "hookspec")


def test_public_names_are_declared_and_exist() -> None:
    wrong = []
    for name, path in EVERY.items():
        if name.endswith("__main__"):
            continue
        module = importlib.import_module(name.removesuffix(".__init__"))
        if not hasattr(module, "__all__"):
            wrong += [f"{name} has no __all__"] if declares(tree(path)) else []
            continue
        wrong += [f"{name}.__all__ repeats itself"] if len(set(module.__all__)) != len(module.__all__) else []
        wrong += [f"{name} has no {public}" for public in module.__all__ if not hasattr(module, public)]
    assert wrong == []


def test_types_and_layers_are_checked_of_every_package() -> None:
    tools = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert tuple(tools["mypy"]["packages"]) == tuple(tools["importlinter"]["root_packages"]) == PACKAGES


def test_packages_are_typed() -> None:
    folders = {package: importlib.import_module(package).__path__ for package in PACKAGES}
    untyped = [package for package, paths in folders.items() if not (Path(next(iter(paths))) / "py.typed").is_file()]
    assert untyped == []


def test_data_is_read_as_resources_and_never_beside_a_file() -> None:
    used = [
        f"{name}, line {node.lineno}"
        for name, path in EVERY.items()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Name) and node.id == "__file__"
    ]
    assert used == []


def reasonless(module: ast.Module) -> Iterator[int]:
    """The lines of skips and expected failures that do not say why."""
    explained = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            given = any(keyword.arg == "reason" for keyword in node.keywords)
            if given or (node.func.attr in ("skip", "xfail") and node.args and not is_mark(node.func)):
                explained.add(id(node.func))
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and node.attr in SKIPS and id(node) not in explained and is_pytest(node):
            yield node.lineno


def is_mark(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Attribute) and node.value.attr == "mark"


def is_pytest(node: ast.Attribute) -> bool:
    return is_mark(node) or (isinstance(node.value, ast.Name) and node.value.id == "pytest")


def test_nothing_is_skipped_without_a_reason() -> None:
    found = [f"{name}, line {line}" for name, path in TESTS.items() for line in reasonless(tree(path))]
    assert found == []


def test_a_skip_without_a_reason_is_seen() -> None:
    written = """
@pytest.mark.skip
def a(): pytest.skip("no GPU")
@pytest.mark.skipif(True)
def b(): pytest.importorskip("x")
@pytest.mark.xfail(reason="known")
def c(): model.skip()
"""
    assert list(reasonless(ast.parse(written))) == [2, 4, 5]
