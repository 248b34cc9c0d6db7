"""The registry: one TOML page for each name, and the embedded models beside them."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable

from mi_core.hookspecs import hookimpl

__all__ = ["mi_registry"]


@hookimpl
def mi_registry() -> Traversable:
    """The folder of the pages."""
    return files("mi_registry")
