"""What a family returns: how to make the backend, and where each of its parameters comes from.

A blueprint costs nothing: its backend has empty parameters on the meta device, and its weights are names and views.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from mi_core.protocols import Backend

__all__ = ["Blueprint", "Weight"]


def only(tensor: Tensor) -> Tensor:
    """The one tensor as it is."""
    return tensor


@dataclass(frozen=True)
class Weight:
    """One parameter: the checkpoint tensors that it comes from, and a function of views (split, transpose, stack)."""

    names: tuple[str, ...]
    view: Callable[..., Tensor] = only
    wide: bool = False
    """Whether it stays float32 where the model's dtype is narrower."""

    @classmethod
    def of(cls, *names: str, view: Callable[..., Tensor] = only, wide: bool = False) -> Weight:
        """``Weight.of("a")`` is the tensor ``a``; ``Weight.of("a", view=f)`` is ``f(a)``."""
        return cls(names, view, wide)


@dataclass(frozen=True)
class Blueprint:
    """A family's answer to a config."""

    backend: Callable[[], Backend]
    """Makes the module; its parameters are empty meta tensors: no initialiser runs, no computed buffers."""
    weights: Mapping[str, Weight]
    """Parameter -> where it comes from."""
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Pattern (fnmatch) of checkpoint names -> why it is dropped."""
    inert: Mapping[str, str] = field(default_factory=dict)
    """Config key -> why it does not change the numbers."""
    tie: Mapping[str, str] = field(default_factory=dict)
    """Parameter -> the parameter whose tensor it shares."""
    initialise: Callable[[Backend, Generator], None] | None = None
    """Fills fresh parameters in place for training (`mi.build`); normal(0, 0.02), gains one, biases zero if absent."""
    spec: object | None = None
    """What the backend computes, as a value that equals another exactly where both compute the same (a frozen dataclass
    does); None where readings cannot be compared."""


def empty(*shape: int, dtype: torch.dtype | None = None) -> torch.nn.Parameter:
    """A parameter without numbers: what backends are made of before loading."""
    return torch.nn.Parameter(torch.empty(*shape, dtype=dtype, device="meta"), requires_grad=False)
