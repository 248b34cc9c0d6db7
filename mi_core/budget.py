"""How many tokens fit: measured free memory, and what one token needs inside a block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from mi_core.model import Model

__all__ = ["advice_when_full", "free_bytes", "halved_on_out_of_memory", "is_out_of_memory", "tokens_that_fit"]

SHARE = 0.25
"""The part of free memory that a sweep may fill."""
ENOUGH = {"cpu": 4096, "cuda": 65536, "mps": 16384}
"""More tokens in one call bring no speed."""
FULL = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What errors say of memory that was not allocated by torch's own allocators of devices."""


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device, measured now."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch gives it out again
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    known = Path("/proc/meminfo")
    if known.exists():
        for line in known.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 4 << 30


def bytes_per_token(model: Model, width: int) -> int:
    """What one token needs inside a block: every site of a layer once, and its row of attention weights."""
    size = torch.finfo(model.dtype).bits // 8
    numbers = 0
    for site in model.backend.sites():
        if site.layers is not None and not site.on_demand:
            count = 1
            for dim in site.dims:
                count *= width if dim == "key_pos" else site.sizes.get(dim, 1)
            numbers += count
    return max(1, numbers * size)


def tokens_that_fit(model: Model, width: int) -> int:
    """How many tokens one call of a block may have in rows so wide, by the free memory of the model's device."""
    free = SHARE * free_bytes(model.device)
    return max(1, min(int(free / bytes_per_token(model, width)), ENOUGH.get(model.device.type, 4096)))


def halved_on_out_of_memory(attempt: Callable[[int], None], tokens: int) -> None:
    """Try with fewer tokens until the memory suffices."""
    while True:
        try:
            return attempt(tokens)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if tokens <= 1:
                error.add_note(
                    "This was with one token in a call: the base run's streams and one variant fill the memory. Sweep "
                    "fewer or shorter rows at a time; plan_sweep(...).explain() tells what they take."
                )
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        tokens //= 2


@contextmanager
def advice_when_full(text: str) -> Iterator[None]:
    """Say what helps where an allocation fails; the error and its type stay."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            error.add_note(text)
        raise


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed, on a device or on the host."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in FULL)
