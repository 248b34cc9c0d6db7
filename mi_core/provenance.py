"""Where a model came from: what every receipt and every result carries along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Provenance"]


@dataclass(frozen=True)
class Provenance:
    """The identity of a loaded or built model, as far as numbers depend on it."""

    ref: str
    """What was asked for: an embedded name, a folder, a Hub id, or ``"build"``."""
    family: str
    """The plugin that read it: a model_type."""
    read_as: str = ""
    """How the family was found, in words, where nobody claims the checkpoint's model_type."""
    quantised: str = ""
    """Which weights were quantised on loading, how and by what, in words."""
    dequantised: str = ""
    """Which weights the checkpoint stores quantised, and how, in words."""
    plugin: str = ""
    """The distribution that the plugin belongs to, with its version."""
    revision: str | None = None
    """The commit of the Hub repository, where there is one."""
    seed: int | None = None
    """The seed of a built model."""
    ignored_config: tuple[str, ...] = ()
    ignored_tensors: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    """mi-core, torch and python."""
