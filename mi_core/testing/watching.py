"""Looking at a backend without the core's help: a tap that wants everything, and a backend that counts its calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mi_core.layout import Layout
from mi_core.loop import Outcome, Taps, forward
from mi_core.number_inputs import read_inputs
from mi_core.protocols import Batch
from mi_core.testing.strategies import Prompt
from mi_core.testing.subject import Subject

__all__ = ["Counting", "Seen", "Watcher", "batch_of", "watched"]


@dataclass
class Seen:
    """What fired, in order, and with what."""

    names: list[str] = field(default_factory=list)
    values: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Watcher:
    """A tap that wants everything and changes nothing."""

    seen: Seen
    prefix: str = ""
    edits_all: bool = False

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """Write down that it fired."""
        self.seen.names.append(f"{self.prefix}{name}")
        self.seen.values[f"{self.prefix}{name}"] = value
        return value

    def wants(self, *names: str) -> bool:
        """Everything is wanted."""
        return True

    def edits(self, *names: str) -> bool:
        """Whether to make believe that everything is written."""
        return self.edits_all

    def cut_edges(self) -> Tensor | None:
        """Nothing is cut."""
        return None


def batch_of(subject: Subject, prompt: Prompt) -> Batch:
    """What the core would hand to the backend for a prompt."""
    read = read_inputs(prompt.ids, subject.model.shape, lambda: None, prompt.mask)
    return Layout.of(read).batch(subject.model.device)


def watched(subject: Subject, batch: Batch, *, edits: bool = False) -> tuple[Outcome, Seen]:
    """Run a batch through the backend, every site watched."""
    seen = Seen()
    layers = {layer: Watcher(seen, f"blocks.{layer}.", edits) for layer in range(subject.depth)}
    with torch.no_grad():
        outcome = forward(subject.model.backend, batch, Taps(layers, Watcher(seen, "", edits)))
    return outcome, seen


class Counting:
    """A backend that counts how often it is asked for anything that takes work."""

    def __init__(self, backend: Any) -> None:
        self.inner = backend
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    @property
    def shape(self) -> Any:
        """The backend's own."""
        return self.inner.shape

    @property
    def blocks(self) -> Sequence[Any]:
        """The backend's own."""
        return tuple(self.inner.blocks)

    def sites(self) -> Sequence[Any]:
        """The backend's own."""
        return tuple(self.inner.sites())

    def embed(self, batch: Any, tap: Any) -> Any:
        """The backend's own, counted."""
        self.calls += 1
        return self.inner.embed(batch, tap)

    def unembed(self, resid: Any, tap: Any) -> Any:
        """The backend's own."""
        return self.inner.unembed(resid, tap)

    def weight(self, name: str) -> Tensor:
        """The backend's own."""
        found: Tensor = self.inner.weight(name)
        return found
