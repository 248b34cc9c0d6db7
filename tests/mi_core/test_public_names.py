from __future__ import annotations

import ast
import pkgutil
from pathlib import Path

import mi_core as mi


def imported_for_checkers() -> dict[str, str]:
    """Names that type checkers see, and their modules."""
    tree = ast.parse(Path(mi.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {
        name.name: str(node.module).removeprefix("mi_core.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }


def test_type_checkers_and_the_interpreter_see_the_same_names() -> None:
    assert imported_for_checkers() == mi.MODULES
    assert sorted(mi.__all__) == sorted({*mi.MODULES, "errors"})
    for name in mi.__all__:
        assert getattr(mi, name) is not None
        assert name in dir(mi)


def test_no_public_name_is_also_a_module() -> None:
    # importing the module would put it in the name's place
    assert not {module.name for module in pkgutil.iter_modules(mi.__path__)} & set(mi.MODULES)
