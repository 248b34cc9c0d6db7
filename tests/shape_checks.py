"""The suite's shape checks: at every call, what the signature says about tensors, and nothing else.

Types without shapes are mypy's, and tests of bad input hand over what those forbid, to see our own errors. So a
function without a shape in its signature runs as it is; jaxtyping's own decorator would bind the arguments of all.
Sizes of one name must agree within a call. A size that is an argument's value, ``"{n}"``, is not known here.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, get_args

import jaxtyping
from beartype import beartype
from jaxtyping import AbstractArray, jaxtyped

__all__ = ["checked", "install"]


def install(packages: Sequence[str]) -> None:
    """Check every function of these packages, and every dataclass as it is made, from their first import on."""
    # jaxtyping's import hook writes @jaxtyping.jaxtyped(typechecker=checked) above each: here that is @checked
    jaxtyping.jaxtyped = lambda typechecker: typechecker
    jaxtyping.install_import_hook(packages, "shape_checks.checked")


def checked(target: Any) -> Any:
    """A function under beartype, with the annotations that hold a shape; a class with its generated ``__init__``."""
    if inspect.isclass(target):
        if dataclasses.is_dataclass(target) and "__init__" in vars(target):
            target.__init__ = checked(target.__init__)
        return target
    written = target.__annotations__
    hints = {name: evaluated(hint, target.__globals__) for name, hint in written.items()}
    shapes = {name: hint for name, hint in hints.items() if has_shape(hint)}
    return in_context(target, shapes) if shapes else target


def in_context(function: Callable[..., Any], shapes: dict[str, Any]) -> Callable[..., Any]:
    """The function, whose calls know no sizes but their own."""
    written = function.__annotations__
    function.__annotations__ = shapes
    under_beartype = beartype(function)
    function.__annotations__ = written

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with jaxtyped("context"):
            return under_beartype(*args, **kwargs)

    return call


def evaluated(hint: Any, scope: dict[str, Any]) -> Any:
    """An annotation; anything goes where it names what is not imported when the function is declared."""
    try:
        return eval(hint, scope) if isinstance(hint, str) else hint
    except NameError:
        return Any


def has_shape(hint: Any) -> bool:
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return True
    return any(has_shape(part) for part in get_args(hint))
