"""The tasks that AlgZoo's models were trained on: what goes in, and what is right.

Source: Hilton et al. 2026, "AlgZoo: uninterpreted models with fewer than 1,500 parameters", Alignment Research Center.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from mi_core.errors import InputError

__all__ = ["TASKS", "Task", "argmedian", "longest_cycle", "median", "second_argmax", "task_of"]


@dataclass(frozen=True)
class Task:
    """One task: how its inputs are drawn, and the answer to each.

    ``label`` takes ``[batch n]`` and returns ``[batch]``: a class in ``range(n)``, or a number where ``scalar``.
    ``finite`` says that inputs are maps from ``range(n)`` to itself, which can all be listed; else they are n
    independent standard normal numbers.
    """

    name: str
    label: Callable[[Tensor], Tensor]
    finite: bool = False
    scalar: bool = False
    odd: bool = False

    def classes(self, n: int) -> int:
        """How many numbers a model of this task returns."""
        return 1 if self.scalar else n

    def draw(self, rows: int, n: int, seed: int = 0) -> Shaped[Tensor, "rows n"]:
        """Random inputs, the same for the same seed.

        >>> TASKS["longest_cycle"].draw(2, 4, seed=1).shape
        torch.Size([2, 4])
        """
        self.check(n)
        draw = torch.Generator().manual_seed(seed)
        return torch.randint(n, (rows, n), generator=draw) if self.finite else torch.randn(rows, n, generator=draw)

    def domain(self, n: int) -> Int[Tensor, "all n"]:
        """Every input there is: ``n ** n`` maps.

        Raises:
            InputError: the task's inputs are numbers, or there are more than ten million maps.
        """
        if not self.finite:
            raise InputError(f"the inputs of {self.name} are real numbers: they cannot be listed. Draw some.")
        if n**n > 10_000_000:
            raise InputError(f"{self.name} of {n} has {n**n:,} inputs, too many to list: draw some.", n=n)
        return torch.tensor(list(itertools.product(range(n), repeat=n)))

    def check(self, n: int) -> None:
        """Refuse a length for which the task means nothing."""
        if n < 2 or (self.odd and n % 2 == 0):
            raise InputError(f"{self.name} needs {'an odd length' if self.odd else 'a length'} of at least 2, got {n}")


def second_argmax(x: Float[Tensor, "batch n"]) -> Int[Tensor, "batch"]:
    """The position of the second largest number; of equal ones the first.

    >>> second_argmax(torch.tensor([[0.1, 0.9, 0.5]])).tolist()
    [2]
    """
    return x.sort(dim=-1, descending=True, stable=True).indices[:, 1]


def argmedian(x: Float[Tensor, "batch n"]) -> Int[Tensor, "batch"]:
    """The position of the middle one of an odd count of numbers.

    >>> argmedian(torch.tensor([[0.1, 0.9, 0.5]])).tolist()
    [2]
    """
    return x.sort(dim=-1, stable=True).indices[:, x.shape[-1] // 2]


def median(x: Float[Tensor, "batch n"]) -> Float[Tensor, "batch"]:
    """The median; of an even count of numbers the mean of the two in the middle.

    >>> median(torch.tensor([[1.0, 4.0, 2.0, 8.0]])).tolist()
    [3.0]
    """
    ordered, n = x.sort(-1).values, x.shape[-1]
    return (ordered[:, (n - 1) // 2] + ordered[:, n // 2]) / 2


def longest_cycle(x: Int[Tensor, "batch n"]) -> Int[Tensor, "batch"]:
    """The length of the longest cycle of ``j -> x[j]``, less one, so that it is one of n classes.

    A node that leads into a cycle without lying on it (the tail of a rho) counts for nothing.

    >>> longest_cycle(torch.tensor([[1, 0, 0, 2], [0, 0, 0, 0]])).tolist()
    [1, 0]
    """
    n = x.shape[-1]
    start = torch.arange(n, device=x.device).expand_as(x)
    place, length = start, torch.zeros_like(x)
    for steps in range(1, n + 1):
        place = x.gather(1, place)
        length = torch.where((place == start) & (length == 0), steps, length)
    return length.max(1).values - 1


TASKS: Final = {
    task.name: task
    for task in (
        Task("second_argmax", second_argmax),
        Task("argmedian", argmedian, odd=True),
        Task("median", median, scalar=True),
        Task("longest_cycle", longest_cycle, finite=True),
    )
}
"""Every task by its name."""


def task_of(name: str) -> Task:
    """The task of that name.

    Raises:
        InputError: there is none.
    """
    if name not in TASKS:
        raise InputError(f"no task {name!r}: there are {', '.join(TASKS)}.", name=name)
    return TASKS[name]
