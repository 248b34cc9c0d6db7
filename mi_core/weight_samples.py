"""What tells a model's weights from those of another: a few numbers of each, wherever it is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mi_core.offloading import Offloaded
from mi_core.placed import PlacedBackend, placed_in

__all__ = ["fingerprint_of"]

SAMPLES = 64
"""Numbers of each parameter that stand for it, at least (of a smaller one, all)."""
KNOWN: WeakKeyDictionary[Offloaded, dict[str, bytes]] = WeakKeyDictionary()
"""What was sampled of weights that come and go, which nobody can change."""


def fingerprint_of(backend: object) -> str:
    """What tells the weights of a model from others: names, shapes, dtypes and a sample of each parameter's numbers.

    It is the same under every placement, and brings nothing to a device: of a file, the pages of the samples are read.
    """
    digest = hashlib.sha256()
    for name, sample in samples_of(backend) if isinstance(backend, nn.Module) else ():
        digest.update(name.encode())
        digest.update(sample)
    return digest.hexdigest()


def samples_of(backend: nn.Module) -> Iterator[tuple[str, bytes]]:
    """Each parameter's name and sample, in the order of ``named_parameters``; what is tied counts once."""
    placed = placed_in(backend)
    if placed is None:
        yield from ((name, sampled(own)) for name, own in backend.named_parameters())
        return
    prefix, outer = "", backend
    while outer is not placed:
        prefix, outer = f"{prefix}inner.", outer.inner  # type: ignore[assignment]  # where the placed one was found
    # what the module itself has in their places: its own named_parameters would bring them
    inside = {id(own) for _, own in nn.Module.named_parameters(placed)}
    for name, own in nn.Module.named_parameters(backend):
        if id(own) not in inside:
            yield name, sampled(own)
    for name, sample in samples_of_placed(placed):
        yield f"{prefix}{name}", sample


def samples_of_placed(placed: PlacedBackend) -> Iterator[tuple[str, bytes]]:
    """Those of the backend inside, by the names and in the order that they have there."""
    inner: Any = placed.inner
    for name in placed.parameter_names():
        away = placed.offloaded.get(placed.unit_of(name))
        if away is None:
            yield name, sampled(inner.get_parameter(name))
            continue
        if away not in KNOWN:
            KNOWN[away] = {own: sampled(value) for own, value in away.kept().items()}
        yield name, KNOWN[away][name]


def sampled(parameter: Tensor) -> bytes:
    """Shape, dtype and evenly spread numbers of a parameter."""
    count = parameter.numel()
    places = torch.arange(0, count, max(1, count // SAMPLES), device=parameter.device)
    # by coordinates: to flatten a view that is transposed would be to read and copy all of it
    picked = parameter.detach()[torch.unravel_index(places, parameter.shape)] if parameter.ndim else parameter.detach()
    numbers = picked.reshape(-1).cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return f" {tuple(parameter.shape)} {parameter.dtype}".encode() + numbers
