"""Several runs side by side, layer by layer: weights that come and go come once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias, TypeVar

import torch

from mi_core.device_maps import OUTSIDE
from mi_core.parking import Parking
from mi_core.placed import PlacedBlock, placed_in
from mi_core.prefetching import Stop
from mi_core.protocols import Backend, Block

__all__ = [
    "Stages",
    "abreast",
    "all_abreast",
    "alone",
    "comes_and_goes",
    "computed_on",
    "expecting",
    "parking",
    "repeating",
]

Result = TypeVar("Result")
Stages: TypeAlias = Generator[int, None, Result]
"""A run that stops before each stage and tells which: -1 the embedding, a layer, or behind all the unembedding."""


def alone(run: Stages[Result]) -> Result:
    """A run, straight to its end."""
    try:
        while True:
            next(run)
    except StopIteration as end:
        result: Result = end.value
        return result
    finally:
        run.close()


def abreast(backend: Backend, runs: Sequence[Stages[Any]], finished: Callable[[int, Any], None]) -> None:
    """All runs, each stage of all of them before the next; ``finished`` is told each one's number and result."""
    parked = parking(backend)
    try:
        waiting = {number: next(run) for number, run in enumerate(runs)}
        for stage in range(-1, len(backend.blocks) + 1):
            here = [number for number, next_stage in waiting.items() if next_stage == stage]
            with held(backend, stage) if here else nullcontext():
                for number in here:
                    try:
                        waiting[number] = next(runs[number])
                    except StopIteration as end:
                        del waiting[number]
                        if parked is not None:
                            parked.settle()
                        finished(number, end.value)
            if parked is not None:
                parked.turn()
    finally:
        for run in runs:
            run.close()
        if parked is not None:
            parked.clear()


def all_abreast(backend: Backend, runs: Sequence[Stages[Result]]) -> list[Result]:
    """The results of all runs, in their order."""
    results: dict[int, Result] = {}
    abreast(backend, runs, results.__setitem__)
    return [results[number] for number in range(len(runs))]


def held(backend: Backend, stage: int) -> AbstractContextManager[None]:
    """Have the weights of a stage meanwhile, if they come and go."""
    placed = placed_in(backend)
    if placed is None:
        return nullcontext()
    if 0 <= stage < len(backend.blocks):
        block = placed_block(backend.blocks[stage])
        return nullcontext() if block is None else block.present()
    return placed.present(OUTSIDE)


@contextmanager
def expecting(backend: Backend, stages: Iterable[int]) -> Iterator[Callable[[], None]]:
    """Meanwhile a run comes through these stages: weights come ahead of it, once what is yielded was called."""
    placed = placed_in(backend)
    if placed is None or placed.desk is None:
        yield lambda: None
        return
    stops, blocks = [], backend.blocks
    for stage in stages:
        outside = not 0 <= stage < len(blocks)
        block = None if outside else placed_block(blocks[stage])
        weights = placed.offloaded.get(OUTSIDE) if outside else None if block is None else block.weights
        if weights is not None:
            # the host looks the embeddings of tokens up where they lie: they are not worth bringing as a whole
            stops.append(Stop(stage, weights, whole=stage >= 0 or placed.device.type != "cpu"))
    with placed.desk.expecting(stops) as begin:
        yield begin


def repeating(backend: Backend, passes: int) -> AbstractContextManager[None]:
    """Meanwhile so many passes follow on each other: the weights that the next begins with come behind the last."""
    placed = placed_in(backend)
    return nullcontext() if placed is None or placed.desk is None else placed.desk.courier.repeating(passes)


def placed_block(block: Block | None) -> PlacedBlock | None:
    """The placed block that this one is, or stands around."""
    while block is not None and not isinstance(block, PlacedBlock):
        block = getattr(block, "block", None)
    return block


def computed_on(backend: Backend, block: Block) -> torch.device:
    """The device of a layer's computations, in a backend whose parts are placed."""
    placed, found = placed_in(backend), placed_block(block)
    assert placed is not None
    return placed.device if found is None else found.device


def comes_and_goes(backend: object) -> bool:
    """Whether some weights of a backend come for each call and go behind it."""
    placed = placed_in(backend)
    return placed is not None and bool(placed.offloaded)


def parking(backend: object) -> Parking | None:
    """Where streams wait between the stages of runs side by side: on the host, if they are not there anyway."""
    placed = placed_in(backend)
    return None if placed is None else placed.parking
