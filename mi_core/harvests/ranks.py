"""Which of the processes that work on one harvest this is, as ``accelerate launch`` says."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from mi_core.errors import HarvestError

__all__ = ["Ranks", "ranks"]


@dataclass(frozen=True)
class Ranks:
    """This process among those that were launched together."""

    index: int = 0
    count: int = 1
    wait: Callable[[], object] = lambda: None
    """Wait until all of them are here."""
    device: str = "auto"
    """Where this process should have its model."""

    @property
    def first(self) -> bool:
        """Whether this is the one that does what is to be done once."""
        return self.index == 0


def ranks() -> Ranks:
    """The processes of ``accelerate launch`` or ``torchrun``; one, where nobody launched more.

    Raises:
        HarvestError: accelerate does not see the processes that were launched.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched < 2:
        return Ranks()
    import torch
    from accelerate import PartialState  # type: ignore[import-untyped]

    # left to itself, it takes processes without a GPU for processes that were not launched together
    state = PartialState(cpu=os.environ.get("ACCELERATE_USE_CPU") == "true" or not torch.accelerator.is_available())
    if state.num_processes != launched:
        raise HarvestError(
            f"{launched} processes were launched, and accelerate knows of {state.num_processes}: it was used before in "
            "another way. Call mi.harvest before anything else makes accelerate's state."
        )
    return Ranks(state.process_index, state.num_processes, state.wait_for_everyone, str(state.device))
