"""Finding plugins: an entry point names a module, imported at its first use; pluggy checks what it implements.

Our own loader, because pluggy's imports everything, lets one broken plugin take the program down and settles two
claims on one name silently.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, distributions
from types import ModuleType
from typing import Any, Final

import pluggy

from mi_core import hookspecs
from mi_core.errors import BrokenPlugin, MiError, PluginConflict, PluginError, UnknownPlugin

__all__ = ["Plugin", "hidden", "names", "plugin", "report"]

HOOKS: Final = {
    "mi_core.families": "mi_family",
    "mi_core.analyses": "mi_analysis",
    "mi_core.formats": "mi_format",
    "mi_core.tokenizers": "mi_tokenizer",
    "mi_core.registry": "mi_registry",
    "mi_core.commands": "mi_command",
}
"""Group -> the hook that its plugins must implement."""


@dataclass(frozen=True)
class Claim:
    """An entry point as installed; nothing is imported yet."""

    group: str
    name: str
    module: str
    distribution: str
    version: str

    @property
    def source(self) -> str:
        """Who claims it, with the version."""
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True)
class Plugin:
    """One imported plugin, checked against the contract of its group."""

    group: str
    name: str
    distribution: str
    version: str
    module: ModuleType = field(repr=False)
    manager: pluggy.PluginManager = field(repr=False)

    def implements(self, hook: str) -> bool:
        """Whether it has this hook; only the one of its group is a duty."""
        return bool(getattr(self.manager.hook, hook).get_hookimpls())

    def call(self, hook: str, **arguments: Any) -> Any:
        """What this plugin alone answers; None where it answers nothing.

        Raises:
            BrokenPlugin: the plugin raised an error that is none of this library's.
        """
        try:
            answers = getattr(self.manager.hook, hook)(**arguments)
        except MiError:
            raise
        except Exception as error:
            raise broken(self, f"failed in {hook}", error, hook=hook) from error
        return answers[0] if answers else None


def plugin(group: str, name: str) -> Plugin:
    """The plugin of that name, imported now if it was not before; nothing else is imported.

    Raises:
        UnknownPlugin: nobody claims the name; the message gives the closest and all that are installed.
        PluginConflict: two distributions claim it.
        BrokenPlugin: it cannot be imported, or breaks the contract; the message names distribution and cause.
    """
    found = claims(group).get(name, [])
    if not found:
        raise UnknownPlugin(
            f"no installed plugin of {group} is called {name!r}. {installed_instead(group, name)}",
            group=group,
            name=name,
            installed=tuple(names(group)),
        )
    if len(found) > 1:
        raise conflict(found)
    return imported(found[0])


def names(group: str) -> dict[str, str]:
    """Name -> distribution of every plugin of a group, sorted, without importing any."""
    return {name: " and ".join(claim.distribution for claim in found) for name, found in claims(group).items()}


def hidden(group: str) -> list[str]:
    """Installed plugins of a group that ``MI_PLUGINS`` leaves out, sorted."""
    return sorted({claim.name for claim in installed() if claim.group == group} - claims(group).keys())


def report(groups: Iterable[str] = tuple(HOOKS)) -> list[PluginError]:
    """What is wrong with the installed plugins: imports all of them and raises nothing."""
    problems: list[PluginError] = []
    for group in groups:
        for name in claims(group):
            try:
                plugin(group, name)
            except PluginError as error:
                problems.append(error)
    return problems


def claims(group: str) -> dict[str, list[Claim]]:
    """Name -> who claims it, within what ``MI_PLUGINS`` allows."""
    allowed = {normal(part) for part in os.environ.get("MI_PLUGINS", "").split(",") if part.strip()}
    found: dict[str, list[Claim]] = {}
    for claim in installed():
        if claim.group == group and (not allowed or {normal(claim.name), normal(claim.distribution)} & allowed):
            found.setdefault(claim.name, []).append(claim)
    return dict(sorted(found.items()))


@functools.cache
def installed() -> tuple[Claim, ...]:
    """Every entry point of ours, read once for each process: asking all distributions is slow."""
    found: dict[tuple[str, str, str], Claim] = {}
    seen: set[str] = set()
    for distribution in distributions():
        # A substring first: parsing the metadata of every installed package takes far longer.
        if "mi_core." not in (distribution.read_text("entry_points.txt") or ""):
            continue
        owner = distribution.name
        # An editable install and a wheel of it, or a folder twice on sys.path: Python imports the first.
        if normal(owner) in seen:
            continue
        seen.add(normal(owner))
        for entry in distribution.entry_points:
            if entry.group in HOOKS:
                claim = Claim(entry.group, entry.name, module_of(entry), owner, distribution.version)
                found[entry.group, entry.name, normal(owner)] = claim
    return tuple(found.values())


@functools.cache
def imported(claim: Claim) -> Plugin:
    """Import a plugin's module and let pluggy check the names and arguments of its hooks."""
    try:
        module = importlib.import_module(claim.module)
    except (Exception, SystemExit) as error:
        raise broken(claim, "cannot be imported", error) from error
    manager = pluggy.PluginManager("mi_core")
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(module, name=claim.name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise broken(claim, f"breaks the contract of its hooks in {claim.module}", error) from error
    hook = HOOKS[claim.group]
    if not getattr(manager.hook, hook).get_hookimpls():
        marked = " (it has a function of that name without @hookimpl)" if hasattr(module, hook) else ""
        cause = f"{claim.module} implements no {hook}{marked}"
        raise broken(claim, f"breaks the contract of the group {claim.group}", cause, hook=hook)
    return Plugin(claim.group, claim.name, claim.distribution, claim.version, module, manager)


def module_of(entry: EntryPoint) -> str:
    """The module that an entry point names."""
    return entry.value.partition(":")[0].strip()


def normal(name: str) -> str:
    """A distribution's name as packaging compares it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def installed_instead(group: str, name: str) -> str:
    """For a name that nobody claims: the closest one, and all there are."""
    have = names(group)
    near = difflib.get_close_matches(name, have, n=1, cutoff=0.5)
    hint = f"Closest: {near[0]} (from {have[near[0]]}). " if near else ""
    limit = os.environ.get("MI_PLUGINS", "")
    limited = f" Only MI_PLUGINS={limit} may load." if limit else ""
    return f"{hint}Installed: {', '.join(have) or 'none'}.{limited}"


def conflict(found: list[Claim]) -> PluginConflict:
    """The error for two claims on one name."""
    owners = " and ".join(claim.source for claim in found)
    return PluginConflict(
        f"{found[0].name!r} of {found[0].group} is claimed by {owners}. Uninstall one, or set MI_PLUGINS to the "
        f"distributions that may load.",
        group=found[0].group,
        name=found[0].name,
        distributions=tuple(claim.distribution for claim in found),
    )


def broken(of: Claim | Plugin, what: str, cause: BaseException | str, **data: object) -> BrokenPlugin:
    """The error for a plugin that cannot be used."""
    said = cause if isinstance(cause, str) else f"{type(cause).__name__}: {cause}"
    return BrokenPlugin(
        f"the plugin {of.name!r} of {of.group}, from {of.distribution} {of.version}, {what}: {said}. "
        f"Reinstall or uninstall {of.distribution}; everything else works without it.",
        group=of.group,
        name=of.name,
        distribution=of.distribution,
        cause=cause,
        **data,
    )
