"""YAML files, as plain data: no tag of theirs makes an object."""

from __future__ import annotations

from typing import Any, Final

from mi_core.errors import BadConfig
from mi_core.files import Files

__all__ = ["read_yaml"]

LONGEST: Final = 2**20
"""Bytes that a config may have."""


def read_yaml(files: Files, name: str) -> dict[str, Any]:
    """A YAML file that must hold a mapping with text keys.

    Raises:
        BadConfig: it holds anything else, asks for objects, or is no YAML.
    """
    import yaml  # type: ignore[import-untyped]

    data = files.read_bytes(name)
    if len(data) > LONGEST:
        raise BadConfig(f"{files.where}: {name!r} has {len(data)} bytes; a config has fewer than {LONGEST}.", name=name)
    try:
        value = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = " ".join(str(error).split())
        raise BadConfig(f"{files.where}: {name!r} is not read as YAML: {what:.200}.", name=name) from error
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise BadConfig(
            f"{files.where}: {name!r} must hold a mapping with text keys, it holds {value!r:.60}.", name=name
        )
    return value
