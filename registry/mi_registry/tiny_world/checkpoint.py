"""How does an interrupted training go on? Parameters and the optimizer's moments in one safetensors file.

Written beside the old one and then put in its place, so that there is always a whole checkpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mi_core.errors import BadConfig

__all__ = ["Spent", "load_checkpoint", "save_checkpoint"]

FILE = "checkpoint.safetensors"


class Spent(NamedTuple):
    """What a training took so far, in seconds: on the clock, and on all processors together."""

    wall: float = 0.0
    cpu: float = 0.0

    @classmethod
    def now(cls) -> Spent:
        """The readings of this process's clocks."""
        return cls(time.monotonic(), time.process_time())

    def since(self, start: Spent) -> Spent:
        """What lies between two readings."""
        return Spent(self.wall - start.wall, self.cpu - start.cpu)


def save_checkpoint(
    folder: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    recipe: Mapping[str, Any],
    step: int,
    spent: Spent,
) -> None:
    """Write what `load_checkpoint` reads: the state behind ``step`` steps."""
    tensors: dict[str, Tensor] = {f"model/{name}": p.detach() for name, p in module.named_parameters()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": torch.as_tensor(value) for name, value in moments.items()}
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"recipe": json.dumps(recipe), "step": str(step), "spent": json.dumps(spent)}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / f"{FILE}.part", metadata)
    (folder / f"{FILE}.part").replace(folder / FILE)


def load_checkpoint(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, recipe: Mapping[str, Any]
) -> tuple[int, Spent]:
    """Fill module and optimizer in place; returns the steps done and what they took, zeros without a checkpoint.

    Raises:
        BadConfig: the checkpoint was made by another recipe (threads aside).
    """
    if not (folder / FILE).exists():
        return 0, Spent()
    with safe_open(folder / FILE, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    made_by = json.loads(metadata["recipe"])
    asked = json.loads(json.dumps(recipe))
    if {**made_by, "threads": 0} != {**asked, "threads": 0}:
        raise BadConfig(
            f"{folder / FILE} belongs to a training with {made_by!r}, asked for was {asked!r}. "
            "Ask for the same, or give another --out.",
            path=str(folder / FILE),
        )
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(tensors[f"model/{name}"])
    state = optimizer.state_dict()
    state["state"] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("/")
        if kind == "optimizer":
            index, _, moment = rest.partition("/")
            state["state"].setdefault(int(index), {})[moment] = tensor
    optimizer.load_state_dict(state)
    return int(metadata["step"]), Spent(*json.loads(metadata["spent"]))
