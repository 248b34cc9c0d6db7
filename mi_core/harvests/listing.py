"""Which files a path means: a file, those of a folder, or those that fit a pattern; always in the same order."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mi_core.errors import InputError
from mi_core.harvests.record_files import kind_of

__all__ = ["files_of", "refuse_names_as_texts"]

SPLITS = "dataset_dict.json"
SAVED = "state.json"
"""What `datasets` writes beside the files of a set of several splits, and of one data set."""


def files_of(path: Path, *, as_text: bool) -> list[Path]:
    """The files that a path means, sorted by name; ``as_text``: whatever their names are.

    Raises:
        InputError: there is none, or a folder has files of several kinds, or it is a pipe, which ends when it is read.
    """
    if path.is_file():
        return [path]
    if path.is_dir():
        return of_folder(path, as_text)
    if str(path) == "-" or path.exists():
        raise InputError(
            f"{str(path)!r} is no file that can be read twice, and going on after a stop reads from the start: write "
            "the text into a file.",
            path=path,
        )
    if not glob.has_magic(str(path)):
        raise InputError(f"there is no file {str(path)!r}. For texts of your own give a list.", path=path)
    names = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - Path.glob wants a folder to begin with
    fitting = (Path(name) for name in names)
    return [each for each in fitting if each.is_file()] or unreadable(path)


def of_folder(folder: Path, as_text: bool) -> list[Path]:
    """The files of a folder and those below it that are of one kind; hidden ones are left out."""
    if (folder / SPLITS).is_file():
        splits = json.loads((folder / SPLITS).read_text(encoding="utf-8")).get("splits", ())
        raise InputError(
            f"{str(folder)!r} has several splits ({', '.join(splits)}): give the folder of one.", path=folder
        )
    if (folder / SAVED).is_file() and not as_text:
        return saved(folder)
    below = (path for path in sorted(folder.rglob("*")) if path.is_file())
    found = [path for path in below if not any(part[0] in "._" for part in path.relative_to(folder).parts)]
    kinds = {"text" if as_text else kind_of(path) for path in found}
    if len(kinds) > 1:
        named = ", ".join(sorted({"".join(path.suffixes[-2:]) or path.name for path in found}))
        raise InputError(
            f"{str(folder)!r} has files of several kinds ({named}): give those that are meant, such as "
            f"{str(folder / '*.parquet')!r}.",
            path=folder,
        )
    return found or unreadable(folder)


def saved(folder: Path) -> list[Path]:
    """The files of a `datasets.Dataset` that was saved to disk; caches may lie beside them."""
    try:
        state: dict[str, Any] = json.loads((folder / SAVED).read_text(encoding="utf-8"))
        return [folder / str(file["filename"]) for file in state["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(folder / SAVED)!r} does not list the files of a data set: {error!r}.") from None


def unreadable(path: Path) -> list[Path]:
    """Refuse what has no file."""
    raise InputError(f"there is no file in {str(path)!r}, or none that fits it.", path=path)


def refuse_names_as_texts(data: Sequence[str]) -> None:
    """Refuse texts that are all names of files: the names themselves were hardly meant.

    Raises:
        InputError: they are.
    """
    if data and all(os.path.isfile(text) for text in data):  # noqa: PTH113 - it bears texts that are no names at all
        raise InputError(
            f"{data[0]!r} and whatever else is in the list are names of files here, and a list of str is one of texts: "
            f"give [Path({data[0]!r}), ...] to read the files.",
            path=data[0],
        )
