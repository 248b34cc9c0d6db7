"""Which examples a probe is fitted on, chosen on and tested on: whole groups, so that no fact is on two sides.

A group is what must not leak: a fact, a country, a pair of nouns. Groups go one by one to the part that lacks most of
their classes, the largest first, so that every part has the classes in the same shares.

Source: scikit-learn 1.9, model_selection.StratifiedGroupKFold, for the rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_core.errors import InputError

__all__ = ["Split", "folds_of", "split_of"]


@dataclass(frozen=True, eq=False)
class Split:
    """Masks of the examples; every group is in one of them."""

    train: Bool[Tensor, "example"]
    validation: Bool[Tensor, "example"]
    """Empty where penalties are chosen by cross-validation."""
    test: Bool[Tensor, "example"]

    @property
    def development(self) -> Bool[Tensor, "example"]:
        """All that is not for the test."""
        return ~self.test

    def __repr__(self) -> str:
        counts = [int(part.sum()) for part in (self.train, self.validation, self.test)]
        return "Split({} train, {} validation, {} test)".format(*counts)


def split_of(
    groups: Int[Tensor, "example"],
    labels: Int[Tensor, "example"],
    shares: Sequence[float] = (0.75, 0.0, 0.25),
    *,
    seed: int = 0,
) -> Split:
    """Groups parted into train, validation and test by these shares of the examples.

    Raises:
        InputError: shares that are none, or groups that leave a part without a class.
    """
    if len(shares) != 3 or min(shares) < 0 or shares[0] <= 0 or shares[2] <= 0:
        raise InputError(f"shares={tuple(shares)}: give those of train, validation and test; the second may be 0.")
    names = [name for name, share in zip(("train", "validation", "test"), shares, strict=True) if share > 0]
    part = parted(groups, labels, torch.tensor([share for share in shares if share > 0]), seed)
    for number, name in enumerate(names):
        check_classes(labels, part == number, f"the {name} part")
    masks = {name: part == number for number, name in enumerate(names)}
    return Split(**{"validation": torch.zeros_like(part, dtype=torch.bool), **masks})


def folds_of(
    groups: Int[Tensor, "example"],
    labels: Int[Tensor, "example"],
    used: Bool[Tensor, "example"],
    count: int,
    *,
    seed: int = 0,
) -> Int[Tensor, "example"]:
    """The fold of each used example, -1 of the others; each fold is left out once.

    Raises:
        InputError: fewer than two folds, fewer groups than folds, or a fold without which a class is gone.
    """
    held = len(torch.unique(groups[used]))
    if count < 2 or held < count:
        raise InputError(
            f"folds={count} of {held} groups ({int(used.sum())} examples): give 2 to {held} folds, or more groups.",
            folds=count,
        )
    found = torch.full_like(groups, -1)
    found[used] = parted(groups[used], labels[used], torch.ones(count), seed)
    for fold in range(count):
        check_classes(labels, used & (found != fold), f"what is left without fold {fold + 1} of {count}", labels[used])
        if not bool((found == fold).any()):
            raise InputError(f"fold {fold + 1} of {count} is empty: groups are too unequal. Give fewer folds.")
    return found


def check_classes(
    labels: Int[Tensor, "example"], mask: Bool[Tensor, "example"], what: str, among: Tensor | None = None
) -> None:
    """Refuse a part that lacks a class."""
    missing = sorted(set((labels if among is None else among).tolist()) - set(labels[mask].tolist()))
    if missing:
        raise InputError(
            f"{what} has no example of class {', '.join(map(str, missing))}: its examples are in too few groups for "
            "this split. Give more groups of that class, fewer folds, or other shares.",
            missing=missing,
        )


def parted(
    groups: Int[Tensor, "example"], labels: Int[Tensor, "example"], shares: Float[Tensor, "part"], seed: int
) -> Int[Tensor, "example"]:
    """The part of each example: groups in random order, the largest first, to the part that lacks most of them."""
    names, member = torch.unique(groups, return_inverse=True)
    classes = int(labels.max()) + 1
    counts = torch.zeros(len(names), classes).index_put_(
        (member, labels.long()), torch.ones(len(groups)), accumulate=True
    )
    wanted = (shares / shares.sum())[:, None] * counts.sum(0)
    shuffled = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    order = shuffled[counts[shuffled].sum(1).argsort(descending=True, stable=True)].tolist()
    # plain lists: there may be as many groups as examples
    total, lacking, part = wanted.clamp_min(1e-9).tolist(), wanted.tolist(), [0] * len(names)
    for group, sizes in zip(order, counts[order].tolist(), strict=True):
        held = [(label, size) for label, size in enumerate(sizes) if size]
        # the part with the largest share still to come, weighed by the group's classes
        lack = [
            sum(size * lacks[label] / whole[label] for label, size in held)
            for lacks, whole in zip(lacking, total, strict=True)
        ]
        part[group] = lack.index(max(lack))
        for label, size in held:
            lacking[part[group]][label] -= size
    return torch.tensor(part)[member]
