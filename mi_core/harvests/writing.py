"""Shards on their way to the disk, while the next ones are made."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from mi_core.harvests.folder import Folder
from mi_core.harvests.shards import write_shard
from mi_core.harvests.windows import Cursor

__all__ = ["Writing"]


class Writing:
    """Writes one shard while the next is made."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def __enter__(self) -> Writing:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown()
        if kind is None:
            self._wait()

    def put(self, number: int, end: Cursor, tensors: Mapping[str, Tensor]) -> None:
        """Write a shard, once the one before is written; its errors are raised here."""
        self._wait()
        self._last = self._pool.submit(write_shard, self._folder.path, number, self._folder.fingerprint, end, tensors)

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()
