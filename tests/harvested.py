"""Small harvests: documents of ids, and what is in the folder of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import small

import mi_core as mi
from mi_core.harvests import atomic

__all__ = ["RESID", "bytes_in", "counted_up", "documents", "harvest", "unflushed"]

RESID = "blocks.1.hook_resid_post"


def documents(count: int = 40, seed: int = 0) -> list[list[int]]:
    """Documents of one to forty ids."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 40, (count,), generator=draw).tolist()
    return [torch.randint(0, 61, (length,), generator=draw).tolist() for length in lengths]


def counted_up() -> list[list[int]]:
    """Sixty documents of one to thirteen ids."""
    return [[(7 * number + place) % 61 for place in range(1 + number % 13)] for number in range(60)]


def harvest(folder: Path, data: Any = None, **options: Any) -> mi.Harvest:
    """A harvest of some fifteen shards."""
    options = {"context": 16, "batch_tokens": 48, "shard_rows": 60, **options}
    return mi.harvest(small(seed=6), documents() if data is None else data, RESID, folder, **options)


def bytes_in(folder: Path) -> dict[str, bytes]:
    """Every file of a harvest that is data."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


@contextmanager
def unflushed() -> Iterator[None]:
    """Files are not pressed onto the disk meanwhile, for which tests would wait."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(atomic, "flush", lambda path: None)
        yield
