"""How does an interrupted training go on? Everything that the next step depends on, in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from mi_core.errors import BadConfig
from mi_dictionaries.training.trainer import Trainer

__all__ = ["load_checkpoint", "save_checkpoint"]

FILE = "checkpoint.safetensors"
FREE = ("log_every", "checkpoint_every")
"""Fields that may change on the way: they change no numbers."""


def save_checkpoint(folder: Path, trainer: Trainer, recipe: Mapping[str, Any], seconds: float) -> None:
    """Write beside the old one, then put it in its place, so that there is always a whole one."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().contiguous() for name, tensor in trainer.state().items()}
    numbers = {"done": trainer.done, "counted": trainer.counted, "seconds": seconds}
    metadata = {"recipe": json.dumps(recipe), "numbers": json.dumps(numbers)}
    save_file(tensors, folder / f"{FILE}.part", metadata)
    (folder / f"{FILE}.part").replace(folder / FILE)


def load_checkpoint(folder: Path, trainer: Trainer, recipe: Mapping[str, Any]) -> float:
    """Restore the trainer in place, and return the seconds spent before; zero where there is no checkpoint.

    Raises:
        BadConfig: the checkpoint is of another training; the message names what differs.
    """
    if not (folder / FILE).exists():
        return 0.0
    with safe_open(folder / FILE, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    found, asked = flat(json.loads(metadata["recipe"])), flat(json.loads(json.dumps(recipe)))
    differ = [name for name in sorted(found.keys() | asked.keys()) if found.get(name) != asked.get(name)]
    if differ := [name for name in differ if name.rpartition(".")[2] not in FREE]:
        name = differ[0]
        raise BadConfig(
            f"{str(folder / FILE)!r} belongs to another training: its {name} is {found.get(name)!r}, asked for is "
            f"{asked.get(name)!r}. Ask for the same, or give another folder.",
            differ=tuple(differ),
            folder=str(folder),
        )
    numbers = json.loads(metadata["numbers"])
    trainer.restore(tensors, numbers["done"], numbers["counted"])
    return float(numbers["seconds"])


def flat(recipe: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """A nested mapping with dotted names.

    >>> flat({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    found: dict[str, Any] = {}
    for name, value in recipe.items():
        found |= flat(value, f"{above}{name}.") if isinstance(value, dict) else {f"{above}{name}": value}
    return found
