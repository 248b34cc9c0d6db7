"""The registry: one TOML page for each name, contributed by plugins, with the weights of embedded models beside it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from typing import Any, Final

from mi_core import plugins
from mi_core.errors import BrokenPlugin, PluginConflict, PluginError
from mi_core.files import Files, is_file

__all__ = ["Page", "embedded", "page", "pages"]

GROUP: Final = "mi_core.registry"


@dataclass(frozen=True)
class Page:
    """What the registry says about a name."""

    name: str
    data: Mapping[str, Any]
    distribution: str
    folder: Traversable = field(repr=False)

    @property
    def embedded(self) -> str | None:
        """The folder beside the page that holds the model, where one is embedded."""
        value = self.data.get("embedded")
        return value if isinstance(value, str) else None


def pages() -> dict[str, Page]:
    """Every page that can be read, by name; a page that is broken or claimed twice is left out and fails in `page`."""
    found: dict[str, Page] = {}
    for name in sorted({entry.name.removesuffix(".toml") for _, entry in entries()}):
        try:
            read = page(name)
        except PluginError:
            continue
        if read is not None:
            found[name] = read
    return found


def page(name: str) -> Page | None:
    """The page of that name, or None.

    Raises:
        PluginConflict: two distributions have a page of that name.
        BrokenPlugin: the page is no TOML.
    """
    found = [(owner, entry) for owner, entry in entries(name)]
    if len(found) > 1:
        owners = tuple(owner.distribution for owner, _ in found)
        raise PluginConflict(
            f"the registry has two pages {name!r}, from {' and '.join(owners)}. Uninstall one, or set MI_PLUGINS.",
            name=name,
            distributions=owners,
        )
    return parsed(*found[0]) if found else None


def embedded(name: str) -> Files | None:
    """The files of the embedded model of that name, or None where there is none."""
    read = page(name)
    if read is None or read.embedded is None:
        return None
    return Files(read.folder.joinpath(read.embedded), where=f"embedded model {name!r}")


def entries(name: str | None = None) -> Iterator[tuple[plugins.Plugin, Traversable]]:
    """Registry plugin and page file, of one name or all; a broken registry hides its own pages only."""
    for registry in plugins.names(GROUP):
        try:
            owner = plugins.plugin(GROUP, registry)
            folder = owner.call("mi_registry")
        except PluginError:  # `plugins.report` tells what is wrong with it
            continue
        if name is not None:
            entry = folder.joinpath(f"{name}.toml")
            if is_file(entry):
                yield owner, entry
            continue
        for entry in folder.iterdir():
            if entry.name.endswith(".toml"):
                yield owner, entry


def parsed(owner: plugins.Plugin, entry: Traversable) -> Page:
    """One page, read."""
    try:
        data = tomllib.loads(entry.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise BrokenPlugin(
            f"the registry page {entry.name!r} from {owner.distribution} cannot be read: {error}.",
            name=entry.name,
            distribution=owner.distribution,
            cause=error,
        ) from error
    return Page(entry.name.removesuffix(".toml"), data, owner.distribution, owner.call("mi_registry"))
