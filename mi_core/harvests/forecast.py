"""What a harvest comes to, judged by its first shard before the model runs: rows, bytes, passes over the weights."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mi_core.abreast import comes_and_goes
from mi_core.budget import SHARE, free_bytes
from mi_core.errors import HarvestError
from mi_core.explaining import amount, weight_lines
from mi_core.harvests.windows import Cut, Window
from mi_core.selectors import Selector

if TYPE_CHECKING:
    from mi_core.harvests.settings import Asked
    from mi_core.model import Model

__all__ = ["Forecast", "rows_in", "shards_at_once"]

BESIDE_A_ROW, BESIDE_A_WINDOW, BESIDE_A_TOKEN = 8, 24, 4
"""Bytes of a row's window and position, of a window's place, document and beginning, and of a token."""


@dataclass(frozen=True)
class Forecast:
    """What is to be written from here on."""

    rows: int
    bytes: int
    shards: int
    free: int
    """Bytes that are free where it is written."""
    documents: int
    """How many documents it is judged by."""

    @classmethod
    def of(cls, asked: Asked, cut: Cut, before: int, total: int | None, folder: Path) -> Forecast | None:
        """By the first shard that is missing; None where nobody knows how many rows a window gives.

        Of a corpus without an end that is known (``total``) it is that shard alone.
        """
        found = [rows_in(window, asked.cutting.pos) for window in cut.windows]
        kept = [rows for rows in found if rows is not None]
        if len(kept) < len(found):
            return None
        share = cut.done - before
        times = (total - before) / share if total is not None and share > 0 else 1.0
        beside = len(cut.windows) * BESIDE_A_WINDOW + cut.tokens * BESIDE_A_TOKEN
        size = sum(kept) * (asked.bytes_of_row + BESIDE_A_ROW) + beside
        documents = len({window.document for window in cut.windows})
        free = shutil.disk_usage(folder).free
        return cls(round(sum(kept) * times), round(size * times), math.ceil(times), free, documents)

    def refuse_without_room(self, folder: Path) -> None:
        """Refuse what the disk cannot hold.

        Raises:
            HarvestError: there is less room than is needed.
        """
        if self.bytes > self.free:
            raise HarvestError(
                f"about {amount(self.bytes)} are needed for {amount(self.rows, 'rows')} in {str(folder)!r}, and "
                f"{amount(self.free)} are free there (judged by {self.documents} of the documents). Keep fewer points "
                'or positions, store them with dtype="bfloat16", or begin anyway with check_room=False: what is '
                "written when the disk is full is kept.",
                needed=self.bytes,
                free=self.free,
            )

    def lines(self, model: Model, at_once: int = 1) -> list[str]:
        """In words, for whoever waits; so many shards are made at one time."""
        shards = f"{self.shards} shards" if self.shards > 1 else "1 shard"
        said = [f"about {amount(self.rows, 'rows')}, {amount(self.bytes)} in {shards}; {amount(self.free)} are free"]
        if comes_and_goes(model.backend):
            passes = math.ceil(self.shards / at_once)
            shards = "every shard" if at_once == 1 else f"every {at_once} shards"
            times = "once for all" if passes == 1 else f"once for {shards}, {passes} times"
            said += [*weight_lines(model), f"layer by layer: what is brought comes {times}"]
        return said


def shards_at_once(asked: Asked, cut: Cut, processes: int = 1) -> int:
    """How many shards like one are made together: as many as the host's memory holds, where weights come and go."""
    if not comes_and_goes(asked.model.backend):
        return 1
    found = [rows_in(window, asked.cutting.pos) for window in cut.windows]
    rows = sum(len(window.ids) if kept is None else kept for window, kept in zip(cut.windows, found, strict=True))
    streams = cut.tokens * asked.model.shape.d_model * asked.model.dtype.itemsize
    held = 2 * rows * asked.bytes_of_row + streams  # as they were captured, and as they are stored
    return max(1, int(SHARE * free_bytes(torch.device("cpu")) / processes / held))


def rows_in(window: Window, pos: Selector | None) -> int | None:
    """How many rows a window gives; None where that depends on its text.

    >>> rows_in(Window(0, 0, (5, 6, 7, 8)), slice(-2, None)), rows_in(Window(0, 0, (5, 6, 7)), -1)
    (2, 1)
    """
    length = len(window.ids)
    if isinstance(pos, int):
        return 1
    if type(pos) is tuple:
        return min(len(pos), length)
    if isinstance(pos, slice):
        return sum(place >= window.fresh for place in range(length)[pos])
    return length - window.fresh if pos is None else None
