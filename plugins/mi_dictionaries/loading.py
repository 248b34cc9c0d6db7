"""One loader for every format: a reference becomes a dictionary, or a set of them."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

from mi_core.errors import BadConfig
from mi_core.files import Files
from mi_core.formats import Asked, read_dictionary
from mi_dictionaries.checking import with_findings
from mi_dictionaries.references import find
from mi_dictionaries.sets import DictionarySet
from mi_dictionaries.sites import layer_of

__all__ = ["load"]

UNITS = ("saelens", "native")


def load(
    ref: str | os.PathLike[str],
    *,
    layer: int | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    k: int | None = None,
    feature_units: str = "saelens",
    ignore_config: Collection[str] = (),
) -> Any:
    """Which dictionary is this? A reference becomes a `SparseDictionary`, another `Dictionary`, or a `DictionarySet`.

    The format is found by the files: every installed format (group ``mi_core.formats``) is asked, and exactly one must
    know them. Dimensions come from the tensors' shapes; what the files say beside them must agree. Safetensors stay on
    disk until they are used; ``.pt`` and ``.npz`` files are read without running anything that they hold.

    Args:
        ref: A folder or file; ``owner/name[/folder or file][@revision]`` or ``hf://...`` on the Hub; the name of an
            embedded collection; ``"gemma"`` and ``"llama"`` as in circuit-tracer.
        layer: One layer of a set instead of the whole.
        revision: Branch, tag or commit of a Hub repository.
        token: For private Hub repositories; None takes the one that is logged in.
        k: Active features per token, for top-k dictionaries whose files do not say it.
        feature_units: For Llama Scope: ``"saelens"`` gives features as SAELens and the dashboards do, ``"native"`` as
            its own library does; they differ by one factor.
        ignore_config: Config keys that may go unread.

    Raises:
        ModelNotFound: nothing of that name, or a file of it is missing.
        UnknownFormat: no installed format knows the files, or several do.
        BadConfig: a config that is no valid JSON or YAML, or contradicts itself.
        TensorMismatch: tensors that do not fit each other or what the config says; the message has both.
        UnusedConfig, UnusedTensors: keys or tensors that nothing reads.
        CorruptCheckpoint: a file that is truncated, lies about its size, points outside its folder or holds code.
    """
    if feature_units not in UNITS:
        raise BadConfig(f"feature_units={feature_units!r}; it is one of {', '.join(map(repr, UNITS))}.")
    files, file = find(ref, revision=revision, token=token)
    asked = Asked(file=file, layer=layer, feature_units=feature_units, k=k, ignore_config=tuple(ignore_config))
    plugin, found = read_dictionary(files if file else descended(files), asked)
    check_heard(found, asked, files.where)
    return with_findings(found, plugin.name)


def check_heard(found: Any, asked: Asked, where: str) -> None:
    """Refuse a dictionary that is not what was asked for: a format that has no such option does not look at it."""
    every = found.dictionaries if isinstance(found, DictionarySet) else (found,)
    first = every[0]
    if asked.layer is not None and (reads := layer_of(getattr(first, "site_in", ""))) != asked.layer:
        raise BadConfig(f"{where}: layer={asked.layer} was asked for, and it reads layer {reads}.", layer=reads)
    if asked.k is not None and {getattr(getattr(each, "activation", None), "k", None) for each in every} != {asked.k}:
        chosen = getattr(first, "activation", first)
        raise BadConfig(f"{where}: k={asked.k} was passed, and its features are chosen by {chosen!r:.80}.", k=asked.k)
    if asked.feature_units != UNITS[0] and first.about.details.get("feature_units") != asked.feature_units:
        raise BadConfig(
            f"{where}: feature_units={asked.feature_units!r} was asked for, and its format has one kind of units."
        )


def descended(files: Files) -> Files:
    """The one folder that matters: while a folder holds nothing but one other, that one."""
    while not files.names() and len(files.folders()) == 1:
        files = files.inside(files.folders()[0])
    return files
