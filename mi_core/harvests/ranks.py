"""Which of the processes that work on one harvest this is, as ``accelerate launch`` says."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Ranks", "ranks"]


@dataclass(frozen=True)
class Ranks:
    """This process among those that were launched together."""

    index: int = 0
    count: int = 1
    wait: Callable[[], object] = lambda: None
    """Wait until all of them are here."""

    @property
    def first(self) -> bool:
        """Whether this is the one that does what is to be done once."""
        return self.index == 0


def ranks() -> Ranks:
    """The processes of ``accelerate launch`` or ``torchrun``; one, where nobody launched more."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Ranks()
    from accelerate import PartialState  # type: ignore[import-untyped]

    state = PartialState()
    return Ranks(state.process_index, state.num_processes, state.wait_for_everyone)
