"""The checker behind the suite's shape checks: what the signatures say about tensors, and nothing else.

Types without shapes are mypy's. Tests of bad input hand over what annotations forbid, to see our own errors.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray

__all__ = ["checked"]


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` under beartype, with the annotations that hold a shape."""
    hints = function.__annotations__
    function.__annotations__ = {name: hint if has_shape(hint) else Any for name, hint in hints.items()}
    return beartype(function)


def has_shape(hint: Any) -> bool:
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return True
    return any(has_shape(part) for part in get_args(hint))
