"""Reading a sparse dictionary: every installed format is shown the files, and exactly one must know them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from mi_core import plugins
from mi_core.errors import PluginError, UnknownFormat
from mi_core.files import Files

__all__ = ["Asked", "read_dictionary"]

GROUP: Final = "mi_core.formats"


@dataclass(frozen=True)
class Asked:
    """What the caller wants of the files of a dictionary."""

    file: str | None = None
    """The one file that was named, of a folder that may hold more."""
    layer: int | None = None
    """One layer of a set; None: the whole set, or the one dictionary."""
    feature_units: str = "saelens"
    """In which units features are given by formats that allow two: ``"saelens"`` or ``"native"``."""
    k: int | None = None
    """Active features per token, where the files do not say it (or say it in a folder's name only)."""
    ignore_config: Collection[str] = ()
    """Config keys that may go unread."""


def read_dictionary(files: Files, asked: Asked | None = None) -> tuple[plugins.Plugin, Any]:
    """Which format are these files of, and what do they hold? The format's plugin and the dictionary.

    Raises:
        UnknownFormat: no installed format knows the files, or several do; the message names them.
        LoadError: the one that knows them finds them damaged, or contradicting themselves.
    """
    found: list[tuple[plugins.Plugin, Any]] = []
    broken: list[PluginError] = []
    for name in plugins.names(GROUP):
        try:
            plugin = plugins.plugin(GROUP, name)
            value = plugin.call("mi_format", files=files, asked=asked or Asked())
        except PluginError as error:  # a broken plugin hurts nobody else
            broken.append(error)
            continue
        if value is not None:
            found.append((plugin, value))
    if len(found) == 1:
        return found[0]
    if found:
        names = [plugin.name for plugin, _ in found]
        owners = [f"{plugin.name!r} (from {plugin.distribution})" for plugin, _ in found]
        raise UnknownFormat(
            f"{files.where}: {len(found)} formats claim these files: {', '.join(owners)}. Give the path of the one "
            "file that is meant, or set MI_PLUGINS to what may load.",
            where=files.where,
            formats=tuple(names),
        )
    raise nobody(files, asked or Asked(), broken)


def nobody(files: Files, asked: Asked, broken: list[PluginError]) -> UnknownFormat:
    """The error for files that no format knows."""
    have = ", ".join([*files.names()[:12], *(f"{name}/" for name in files.folders()[:24])]) or "nothing"
    what = f"the file {asked.file!r}" if asked.file else "this folder"
    hint = " Give the folder of one dictionary (REF/FOLDER)." if files.folders() and not asked.file else ""
    trouble = f" Broken plugins: {'; '.join(map(str, broken))}" if broken else ""
    known = ", ".join(plugins.names(GROUP)) or "none"
    return UnknownFormat(
        f"{files.where}: no installed format reads {what} as a dictionary. It has: {have}.{hint} Formats: {known}."
        f"{trouble}",
        where=files.where,
        formats=(),
        broken=tuple(broken),
    )
