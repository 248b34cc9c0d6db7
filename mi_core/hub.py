"""Fetching a checkpoint from the Hugging Face Hub: only the files that loading needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from mi_core.errors import ModelNotFound
from mi_core.files import Files
from mi_core.tensors import PICKLE, PICKLE_SHARDED, SHARDED, SINGLE, weight_map

__all__ = ["is_id", "snapshot"]

DESCRIPTION: Final = (
    "config.json",
    SHARDED,
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "rwkv_vocab*",
    "merges.txt",
    "chat_template*",
    "additional_chat_templates/*",
)
"""The small files: what the model is, and how it reads text."""


def is_id(ref: str) -> bool:
    """Whether a text can be a Hub id: ``owner/name``, or a name alone."""
    return (
        len(ref) <= 96
        and re.fullmatch(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", ref) is not None
        and ".." not in ref
    )


def snapshot(
    repo: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    weights: bool = True,
    allow_pickle: bool = False,
) -> Files:
    """A repository's files in the local cache, fetched where they are missing, with the Hub client's progress bars.

    ``HF_HUB_OFFLINE``, ``HF_HOME`` and ``HF_ENDPOINT`` work as for every client of the Hub.

    Raises:
        ModelNotFound: no such repository or revision, no access, or no network and not in the cache.
    """
    small = [*DESCRIPTION, *([PICKLE_SHARDED] if allow_pickle else [])]
    files = fetched(repo, revision, token, small)
    if not files.has("config.json") or not weights:
        return files
    # The commit that was found, so that a push in between cannot mix two versions.
    commit = files.revision or revision
    fetched(repo, commit, token, [SINGLE])
    if not files.has(SINGLE) and files.has(SHARDED):
        fetched(repo, commit, token, sorted(set(weight_map(files, SHARDED).values())))
    elif not files.has(SINGLE) and allow_pickle:
        shards = set(weight_map(files, PICKLE_SHARDED).values()) if files.has(PICKLE_SHARDED) else {PICKLE}
        fetched(repo, commit, token, sorted(shards))
    return files


def fetched(repo: str, revision: str | None, token: str | bool | None, patterns: list[str]) -> Files:
    """The snapshot folder, once these files of it are there."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(repo, revision=revision, token=token, allow_patterns=patterns)
    except Exception as error:
        raise explained(repo, revision, error) from error
    commit = Path(folder).name
    return Files(
        Path(folder),
        where=f"Hub repository {repo!r} at {commit[:12]}",
        revision=commit if re.fullmatch(r"[0-9a-f]{40}", commit) else revision,
    )


def explained(repo: str, revision: str | None, error: Exception) -> ModelNotFound:
    """The Hub client's error as ours, with what to do."""
    from huggingface_hub import errors as known

    first = str(error).strip().partition("\n")[0]
    kinds: list[tuple[Any, str]] = [
        (
            known.GatedRepoError,
            "access must be asked for on its page; then log in (hf auth login) or pass token=",
        ),
        (known.RevisionNotFoundError, f"it has no revision {revision!r}"),
        (known.RepositoryNotFoundError, "there is no such repository, or it is private (log in, or pass token=)"),
        (
            known.LocalEntryNotFoundError,
            "it is not in the cache, and the Hub is out of reach or HF_HUB_OFFLINE is set",
        ),
        (known.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set and it is not in the cache"),
        (known.HFValidationError, "that is no Hub id ('owner/name')"),
    ]
    what = next((text for kind, text in kinds if isinstance(error, kind)), "the Hub cannot be reached, or failed")
    return ModelNotFound(
        f"{repo!r} is no embedded model and no folder, and from the Hub: {what}. ({type(error).__name__}: {first})",
        ref=repo,
        revision=revision,
        cause=error,
    )
