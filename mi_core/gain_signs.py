"""Whether gains of norms are stored as they multiply or as offsets from one, told from their values.

Neither tensors' names nor config keys show it, so a family that was inferred is held against what it has read: what
multiplies is hardly ever negative, and offsets lie on both sides of zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn

from mi_core.errors import UnknownFamily
from mi_core.protocols import Backend

__all__ = ["check_gains"]

NORMS: Final = ("ln1", "ln1_post", "ln2", "ln2_post")
FEW: Final = 0.01
"""Offsets have more below zero than this share of them."""
MANY: Final = 0.1
"""What multiplies has less below zero than this share of it."""


def check_gains(backend: Backend, module: nn.Module, family: str, where: str) -> None:
    """Refuse an inferred family whose norms read stored gains the other way.

    Raises:
        UnknownFamily: more stored gains are below zero than gains have, or fewer than offsets have.
    """
    stored = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    found: dict[bool, list[Tensor]] = {True: [], False: []}
    for gain in gains(backend):
        as_stored = gain.untyped_storage().data_ptr() in stored
        found[as_stored].append((gain if as_stored else gain - 1).detach().float().cpu().flatten())
    for as_stored, parts in found.items():
        if not parts:
            continue
        below = float((torch.cat(parts) < 0).float().mean())
        if below > MANY if as_stored else below < FEW:
            seen = "offsets from one" if as_stored else "what multiplies"
            read = "multiplies by them as they are" if as_stored else "takes them for offsets from one"
            raise UnknownFamily(
                f"{where}: {below:.0%} of the norms' gains are below zero, as of {seen}, but {family!r}, which has a "
                f"place for every tensor and key, {read}. If you know that it is right, say so: backend={family!r}.",
                family=family,
                below_zero=below,
            )


def gains(backend: Any) -> Iterator[Tensor]:
    """The factors of the norms on the stream, as they multiply."""
    if not hasattr(backend, "weight"):
        return
    names = [f"blocks.{layer}.{norm}.w" for layer in range(backend.shape.n_layers) for norm in NORMS]
    for name in (*names, "ln_final.w"):
        try:
            yield backend.weight(name)
        except KeyError:
            continue
