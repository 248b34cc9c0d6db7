"""What names a dictionary: a path, an embedded name, a place in a Hub repository, a URI, an alias."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from mi_core import registry
from mi_core.errors import CorruptCheckpoint, ModelNotFound
from mi_core.files import Files, is_file
from mi_core.hub import is_id
from mi_core.hub_files import repository

__all__ = ["ALIASES", "HubReference", "find", "hub_reference"]

ALIASES: Final[Mapping[str, str]] = {
    # circuit-tracer 0.4.1, its two short names
    "gemma": "mntss/gemma-scope-transcoders",
    "llama": "mntss/transcoder-Llama-3.2-1B",
}

WEIGHTS: Final = ".safetensors"


@dataclass(frozen=True)
class HubReference:
    """A repository of the Hub, a folder or file in it, and a revision."""

    repo: str
    inside: str = ""
    revision: str | None = None


def hub_reference(ref: str) -> HubReference | None:
    """Which place on the Hub does a text name? None where it can be none.

    >>> hub_reference("google/gemma-scope-2b-pt-res/layer_3/width_16k@v2")
    HubReference(repo='google/gemma-scope-2b-pt-res', inside='layer_3/width_16k', revision='v2')
    >>> hub_reference("hf://me/sets/layer_0/params.npz?revision=main")
    HubReference(repo='me/sets', inside='layer_0/params.npz', revision='main')

    Raises:
        CorruptCheckpoint: a URI of another kind, or one whose path leaves its repository.
    """
    if "://" in ref:
        return from_uri(ref)
    path, _, revision = ref.partition("@")
    parts = path.rstrip("/").split("/")
    repo, inside = "/".join(parts[:2]), "/".join(parts[2:])
    if len(parts) < 2 or not is_id(repo) or ".." in parts or "" in parts:
        return None
    return HubReference(repo, inside, revision or None)


def from_uri(ref: str) -> HubReference:
    """The place that ``hf://owner/name/path?revision=...`` names."""
    uri = urlsplit(ref)
    found = hub_reference(unquote(f"{uri.netloc}{uri.path}")) if uri.scheme == "hf" else None
    if found is None:
        raise CorruptCheckpoint(
            f"{ref!r} is no reference to files of the Hub; only hf://owner/name/path?revision=... is read.", ref=ref
        )
    named = parse_qs(uri.query).get("revision", [None])[0]
    return HubReference(found.repo, found.inside, named or found.revision)


def find(
    ref: str | os.PathLike[str], *, revision: str | None = None, token: str | bool | None = None
) -> tuple[Files, str | None]:
    """The folder that a reference means, and the one file of it where the reference names a file.

    Raises:
        ModelNotFound: nothing of that name here, embedded, or on the Hub.
        CorruptCheckpoint: a URI that is not read.
    """
    name = os.fspath(ref)
    path = Path(os.path.expanduser(name))  # noqa: PTH111  # Path's own raises where there is no such user
    bare = isinstance(ref, str) and not re.search(r"[/\\]", name) and not name.startswith((".", "~"))
    if isinstance(ref, str) and bare and name in ALIASES:
        return find(ALIASES[name], revision=revision, token=token)
    if isinstance(ref, str) and (found := embedded(name)) is not None:
        return found
    for candidate in (path, Path(f"{path}{WEIGHTS}")):  # SAELens leaves the ending out
        if name and is_file(candidate):
            return Files(candidate.parent, where=f"folder {str(candidate.parent)!r}"), candidate.name
    if name and os.path.isdir(path):  # noqa: PTH112  # Path's own raises for names that are too long
        return Files(path, where=f"folder {name!r}"), None
    hub = hub_reference(name) if isinstance(ref, str) else None
    if hub is None:
        raise ModelNotFound(
            f"there is no dictionary {name!r:.200}: no such folder or file, no embedded name, and no place on the Hub "
            f"('owner/name', 'owner/name/folder@revision'). Short names: {', '.join(ALIASES)}.",
            ref=name,
        )
    if revision is not None and hub.revision not in (None, revision):
        raise ModelNotFound(
            f"{name!r} says revision {hub.revision!r} and revision={revision!r} was passed; drop one.", ref=name
        )
    return within(repository(hub.repo, revision=revision or hub.revision, token=token), hub.inside)


def within(files: Files, inside: str) -> tuple[Files, str | None]:
    """The folder, or the folder and the file, that a path below ``files`` names."""
    if not inside:
        return files, None
    for pure in (PurePosixPath(inside), PurePosixPath(inside + WEIGHTS)):
        if not files.has(str(pure)):
            continue
        around = str(pure.parent)
        return (files if around == "." else files.inside(around)), pure.name
    return files.inside(inside), None


def embedded(name: str) -> tuple[Files, str | None] | None:
    """Files that an installed package embeds: ``NAME`` or ``NAME/FOLDER`` of a registry page."""
    first, _, inside = name.partition("/")
    if not re.fullmatch(r"[\w-]+(?:\.[\w-]+)*", first):
        return None
    found = registry.embedded(first)
    return None if found is None else within(found, inside.strip("/"))
