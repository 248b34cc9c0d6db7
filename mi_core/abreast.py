"""Several runs side by side, layer by layer: weights that come and go come once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias, TypeVar

import torch

from mi_core.device_maps import OUTSIDE
from mi_core.placed import PlacedBackend, PlacedBlock, placed_in
from mi_core.protocols import Backend

__all__ = ["Stages", "abreast", "all_abreast", "alone", "comes_and_goes", "parking"]

Result = TypeVar("Result")
Stages: TypeAlias = Generator[int, None, Result]
"""A run that stops before each stage and tells which: -1 the embedding, a layer, or behind all the unembedding."""


def alone(run: Stages[Result]) -> Result:
    """A run, straight to its end."""
    while True:
        try:
            next(run)
        except StopIteration as end:
            result: Result = end.value
            return result


def abreast(backend: Backend, runs: Sequence[Stages[Any]], finished: Callable[[int, Any], None]) -> None:
    """All runs, each stage of all of them before the next; ``finished`` is told each one's number and result."""
    waiting = {number: next(run) for number, run in enumerate(runs)}
    for stage in range(-1, len(backend.blocks) + 1):
        here = [number for number, next_stage in waiting.items() if next_stage == stage]
        with held(backend, stage) if here else nullcontext():
            for number in here:
                try:
                    waiting[number] = next(runs[number])
                except StopIteration as end:
                    del waiting[number]
                    finished(number, end.value)


def all_abreast(backend: Backend, runs: Sequence[Stages[Result]]) -> list[Result]:
    """The results of all runs, in their order."""
    results: dict[int, Result] = {}
    abreast(backend, runs, results.__setitem__)
    return [results[number] for number in range(len(runs))]


def held(backend: Backend, stage: int) -> AbstractContextManager[None]:
    """Have the weights of a stage meanwhile, if they come and go."""
    if 0 <= stage < len(backend.blocks):
        block = backend.blocks[stage]
        return block.present() if isinstance(block, PlacedBlock) else nullcontext()
    return backend.present(OUTSIDE) if isinstance(backend, PlacedBackend) else nullcontext()


def comes_and_goes(backend: object) -> bool:
    """Whether some weights of a backend come for each call and go behind it."""
    placed = placed_in(backend)
    return placed is not None and bool(placed.offloaded)


def parking(backend: object) -> torch.device | None:
    """Where streams wait between the stages of runs side by side: on the host, if they are not there anyway."""
    placed = placed_in(backend)
    return torch.device("cpu") if placed is not None and placed.device.type != "cpu" else None
