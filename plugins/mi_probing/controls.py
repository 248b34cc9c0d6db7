"""Controls: what would a probe score if the label were none of the model's?

- A **control task** gives every type (a word, a country) a label at random, once and for all. A probe that learns it
  has memorised types. What a probe scores above it on the same examples is its selectivity.
- **Shuffled labels** say how far from chance a score on so few examples may be. Where a group has one label they are
  shuffled among groups, which keeps what goes together together.

Source: Hewitt and Liang 2019, "Designing and Interpreting Probes with Control Tasks" (arXiv:1909.03368).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from mi_core.errors import InputError

__all__ = ["control_labels", "seen_types", "shuffled"]


def control_labels(
    types: Int[Tensor, "example"], labels: Shaped[Tensor, "example"], *, seed: int = 0
) -> Shaped[Tensor, "example"]:
    """A random label for each type, drawn from the labels that there are, as often as they are there.

    >>> made = control_labels(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 1]))
    >>> bool(made[0] == made[1]), sorted(made.tolist())
    (True, [0, 0, 1, 1])
    """
    names, member = torch.unique(types, return_inverse=True)
    generator = torch.Generator().manual_seed(seed)
    # as even as the labels are: a permutation of a sample of them, not independent draws
    sample = labels.sort().values[torch.linspace(0, len(labels) - 1, len(names)).round().long()]
    return sample[torch.randperm(len(names), generator=generator)][member]


def seen_types(
    types: Int[Tensor, "example"], used: Bool[Tensor, "example"], share: float, *, seed: int = 0
) -> Bool[Tensor, "example"]:
    """Some of the used examples of each type for a test: others of the same type stay for the fit.

    Raises:
        InputError: no type has two examples, so that nothing could be memorised.
    """
    held_out = torch.zeros_like(used)
    generator = torch.Generator().manual_seed(seed)
    for one in torch.unique(types[used]):
        rows = (used & (types == one)).nonzero()[:, 0]
        count = max(1, round(share * len(rows))) if len(rows) > 1 else 0
        held_out[rows[torch.randperm(len(rows), generator=generator)[:count]]] = True
    if not bool(held_out.any()):
        raise InputError(
            "a control task needs types with several examples, and every type has one: give types=, such as the word "
            "that is read, or control=False."
        )
    return held_out


def shuffled(
    labels: Shaped[Tensor, "example"], groups: Int[Tensor, "example"], *, seed: int
) -> Shaped[Tensor, "example"]:
    """The labels in another order: among groups where each has one label, else among examples."""
    generator = torch.Generator().manual_seed(seed)
    names, member = torch.unique(groups, return_inverse=True)
    first = torch.zeros(len(names), dtype=torch.long).scatter_reduce_(
        0, member, torch.arange(len(groups)), "amin", include_self=False
    )
    of_group = labels[first]
    if torch.equal(of_group[member], labels):
        return of_group[torch.randperm(len(names), generator=generator)][member]
    return labels[torch.randperm(len(labels), generator=generator)]
