"""Several processes that train one dictionary, each on its share of the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mi_core.harvests.ranks import ranks

__all__ = ["Team"]


@dataclass(frozen=True)
class Team:
    """Which process of how many, and how numbers are brought together.

    Gradients are averaged in one message, not hooked into the backward pass: most of their bytes are there at once.
    """

    rank: int = 0
    size: int = 1
    mean: Callable[[Tensor], Tensor] = lambda tensor: tensor
    """The mean of a tensor over all processes."""
    wait: Callable[[], object] = lambda: None
    """Wait until all processes are here."""

    @classmethod
    def launched(cls) -> Team:
        """The processes that ``accelerate launch`` or ``torchrun`` started; this one alone otherwise."""
        here = ranks()
        if here.count < 2:
            return cls()
        from accelerate.utils import reduce  # type: ignore[import-untyped]

        return cls(here.index, here.count, lambda tensor: reduce(tensor, reduction="mean"), here.wait)

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def any(self, flag: bool, device: str | torch.device) -> bool:
        """Whether a flag is up in some process: Ctrl-C comes to each at a step of its own."""
        return flag if self.size == 1 else bool(self.mean(torch.full((1,), float(flag), device=device)) > 0)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over all processes, in place and in one message."""
        if self.size == 1:
            return
        joined = self.mean(torch.cat([tensor.detach().double().flatten() for tensor in tensors]))
        for tensor, part in zip(tensors, torch.split(joined, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))
