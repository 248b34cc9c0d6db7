"""A repository of the Hub whose files are fetched one by one, when somebody reads them."""

from __future__ import annotations

import contextlib
from pathlib import Path, PurePosixPath

from mi_core.errors import ModelNotFound
from mi_core.files import Files

__all__ = ["HubFiles", "repository"]


def repository(repo: str, *, revision: str | None = None, token: str | bool | None = None) -> Files:
    """The files of a repository: its listing now, each file at its first use.

    With ``HF_HUB_OFFLINE``, or where the Hub is out of reach, what an earlier call left in the cache.

    Raises:
        ModelNotFound: no such repository or revision, no access, or no network and not in the cache.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    from mi_core import hub

    failed: Exception | None = None
    if not constants.HF_HUB_OFFLINE:
        try:
            info = HfApi().model_info(repo, revision=revision, token=token)
            listing = frozenset(entry.rfilename for entry in info.siblings or ())
            return HubFiles(repo, str(info.sha), listing, asked=revision, token=token)
        except Exception as error:
            if answered(error):
                raise hub.explained(repo, revision, error) from error
            failed = error  # out of reach: the cache may have it
    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except Exception as error:
        raise hub.explained(repo, revision, failed or error) from error
    return Files(folder, where=f"Hub repository {repo!r} at {folder.name[:12]}, as cached", revision=folder.name)


def answered(error: Exception) -> bool:
    """Whether the Hub was reached and said no."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    return isinstance(error, HfHubHTTPError | HFValidationError)


class HubFiles(Files):
    """A folder of a Hub repository at one commit; `path` fetches a file, or takes it from the cache."""

    def __init__(
        self,
        repo: str,
        commit: str,
        listing: frozenset[str],
        *,
        folder: str = "",
        asked: str | None = None,
        token: str | bool | None = None,
    ) -> None:
        inside = f", folder {folder!r}" if folder else ""
        where = f"Hub repository {repo!r} at {commit[:12]}{inside}"
        super().__init__(PurePosixPath(repo, folder), where=where, revision=commit)  # type: ignore[arg-type]
        self.repo = repo
        self.folder = folder
        self.listing = listing
        self.asked = asked
        self.token = token

    @property
    def place(self) -> PurePosixPath:
        """Repository and folder."""
        return PurePosixPath(self.repo, self.folder)

    def names(self) -> tuple[str, ...]:
        """The files that lie directly in the folder, sorted."""
        return tuple(sorted(name for name in self._below() if "/" not in name))

    def folders(self) -> tuple[str, ...]:
        """The folders that lie directly in this one, sorted."""
        return tuple(sorted({name.partition("/")[0] for name in self._below() if "/" in name}))

    def has(self, name: str) -> bool:
        """Whether the repository has such a file."""
        return self._full(name) in self.listing

    def path(self, name: str) -> Path:
        """The file in the local cache, fetched if it is not there."""
        from huggingface_hub import hf_hub_download

        from mi_core import hub

        if not self.has(name):
            raise ModelNotFound(
                f"{self.where}: no file {name!r}. It has: {', '.join(self.names()) or 'nothing'}.",
                name=name,
                where=self.where,
            )
        full = self._full(name)
        with contextlib.suppress(Exception):
            # by the branch first: so the cache notes what it points to, and finds it without a network
            found = Path(hf_hub_download(self.repo, full, revision=self.asked, token=self.token))
            if self.revision in found.parts:
                return found
        try:  # the branch has moved since the listing, or there is another reason, which this call says
            return Path(hf_hub_download(self.repo, full, revision=self.revision, token=self.token))
        except Exception as error:
            raise hub.explained(self.repo, self.revision, error) from error

    def inside(self, name: str) -> HubFiles:
        """The files of a folder in this one."""
        full = self._full(name)
        if not any(entry.startswith(f"{full}/") for entry in self.listing):
            raise ModelNotFound(
                f"{self.where}: no folder {name!r}. It has: {', '.join(self.folders()) or 'none'}.",
                name=name,
                where=self.where,
            )
        return self._at(full)

    def above(self) -> HubFiles | None:
        """The files of the folder around this one; None at the top of the repository."""
        if not self.folder:
            return None
        parent = PurePosixPath(self.folder).parent
        return self._at("" if parent == PurePosixPath(".") else str(parent))

    def _at(self, folder: str) -> HubFiles:
        return HubFiles(self.repo, str(self.revision), self.listing, folder=folder, asked=self.asked, token=self.token)

    def _full(self, name: str) -> str:
        return str(PurePosixPath(self.folder) / self._relative(name))

    def _below(self) -> list[str]:
        start = f"{self.folder}/" if self.folder else ""
        return [name.removeprefix(start) for name in self.listing if name.startswith(start)]
