"""Which of the processes that work on one harvest this is, as ``accelerate launch`` says."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

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


SIZES: Final = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Where launchers write how many processes they started: torchrun and accelerate, and those of MPI."""


def ranks() -> Ranks:
    """The processes of ``accelerate launch``, ``torchrun`` or ``mpirun``; one, where nobody launched more.

    Raises:
        HarvestError: accelerate does not see the processes that were launched, or did not launch those asked for.
    """
    launched = next((int(os.environ[name]) for name in SIZES if os.environ.get(name)), None)
    if launched is None:
        refuse_one_instead_of_several()
    if launched is None or launched < 2:
        return Ranks()
    import torch
    from accelerate import PartialState  # type: ignore[import-untyped]

    # left to itself, it takes processes without a GPU for processes that were not launched together
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1")
    state = PartialState(cpu=on_cpu or not torch.accelerator.is_available())
    if state.num_processes != launched:
        raise HarvestError(
            f"{launched} processes were launched, and accelerate knows of {state.num_processes}: it was used before in "
            "another way. Call mi.harvest before anything else makes accelerate's state."
        )
    return Ranks(state.process_index, state.num_processes, state.wait_for_everyone, str(state.device))


def refuse_one_instead_of_several() -> None:
    """Refuse to do alone what was meant for several.

    Without several GPUs, ``accelerate launch --num_processes 2`` starts one process and says nothing
    (accelerate 1.15, utils/launch.py: prepare_simple_launcher_cmd_env sets where the others would be found, and no
    number).
    """
    if "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ:
        raise HarvestError(
            "accelerate launch was asked for several processes and started one: without several GPUs it starts more "
            "only with --multi_gpu, which does for CPUs, too (instead of --cpu). For one process say --num_processes 1."
        )
