"""Checkpoint tensors, put together again from the parameters that were taken out of them.

A family says how a parameter is taken out of checkpoint tensors: a part, a transpose, a stack. Nobody has to say the
reverse: the same function, applied to numbered entries, tells where each number of a parameter belongs. That holds for
every function that moves numbers and changes none, and one that changes numbers is noticed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations

import torch
from torch import Tensor

from mi_core.blueprint import Weight, only
from mi_core.errors import NotSerialisable

__all__ = ["assembled"]

UNFIT = (RuntimeError, ValueError, IndexError, TypeError)
"""What a function of tensors may raise at a tensor of another shape than it is meant for."""


def assembled(weights: Mapping[str, Weight], parameters: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """The checkpoint tensors that fill these parameters, by name.

    Raises:
        NotSerialisable: a parameter is computed from checkpoint tensors, not moved.
    """
    tensors: dict[str, Tensor] = {}
    for members in groups(weights):
        group = {member: weights[member] for member in members}
        values = {member: parameters[member].detach().cpu() for member in members}
        first, weight = next(iter(group.items()))
        if len(group) == 1 and weight.view is only and len(weight.names) == 1:
            tensors[weight.names[0]] = values[first].contiguous()
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a function that is meant for matrices may warn at another shape
            found = next((made for shape in shapes(group, values) if (made := put_back(group, values, shape))), None)
        if found is None:
            raise NotSerialisable(
                f"{family}: {first} comes from {', '.join(weight.names)} through a function that changes numbers, "
                "which cannot be undone; only moved numbers can be saved.",
                name=first,
                family=family,
            )
        tensors.update(found)
    return tensors


def groups(weights: Mapping[str, Weight]) -> list[list[str]]:
    """Parameters that share a checkpoint tensor, directly or through others, in the order of the first of each."""
    member_of: dict[str, list[str]] = {}
    for parameter, weight in weights.items():
        joined = [parameter]
        for other in {id(group): group for name in weight.names if (group := member_of.get(name))}.values():
            joined = other + joined
        for member in joined:
            member_of.update(dict.fromkeys(weights[member].names, joined))
    return list({id(group): group for group in member_of.values()}.values())


def shapes(group: Mapping[str, Weight], values: Mapping[str, Tensor]) -> Iterator[tuple[int, ...]]:
    """The shapes that the checkpoint tensors may have, all of them the same one.

    They hold all numbers of the group, along the axes of the first parameter, one of them longer, in any order; an axis
    in front may tell some of the parameters apart, or one of the axes (heads of so many dims) may be two.
    """
    names = {name for weight in group.values() for name in weight.names}
    first, weight = next(iter(group.items()))
    size, rest = divmod(sum(value.numel() for value in values.values()), len(names))
    axes = list(values[first].shape)
    if len(weight.names) > 1 and axes[0] == len(weight.names):
        axes = axes[1:]
    apart = [[count, *axes] for count in range(2, len(group) + 1) if len(group) % count == 0]
    split = [
        [*axes[:axis], count, axes[axis] // count, *axes[axis + 1 :]]
        for axis in range(len(axes))
        for count in range(2, axes[axis])
        if axes[axis] % count == 0
    ]
    tried: set[tuple[int, ...]] = set()
    for base in (axes, [math.prod(axes[:-1]), *axes[-1:]], [1, *axes], *apart, *split):
        for axis in range(len(base)):
            others = math.prod(base[:axis] + base[axis + 1 :])
            if rest or not others or size % others:
                continue
            for shape in permutations([*base[:axis], size // others, *base[axis + 1 :]]):
                if shape not in tried:
                    tried.add(shape)
                    yield shape


def put_back(
    group: Mapping[str, Weight], values: Mapping[str, Tensor], shape: Sequence[int]
) -> dict[str, Tensor] | None:
    """The tensors of a group if they have this shape; None if the group's functions do not fit it."""
    names = list(dict.fromkeys(name for weight in group.values() for name in weight.names))
    numbered = torch.arange(len(names) * math.prod(shape)).view(len(names), *shape)
    entry = dict(zip(names, numbered.unbind(), strict=True))
    whole = torch.zeros(numbered.numel(), dtype=next(iter(values.values())).dtype)
    filled = torch.zeros(numbered.numel(), dtype=torch.bool)
    try:
        for member, weight in group.items():
            places = weight.view(*(entry[name] for name in weight.names))
            if places.shape != values[member].shape or places.dtype != numbered.dtype:
                return None
            whole[places.reshape(-1)] = values[member].reshape(-1)
            filled[places.reshape(-1)] = True
        made = dict(zip(names, whole.view(len(names), *shape).unbind(), strict=True))
        back = {member: weight.view(*(made[name] for name in weight.names)) for member, weight in group.items()}
    except UNFIT:
        return None
    # there are as many entries as numbers: where each is filled, each is filled once
    fits = bool(filled.all()) and all(torch.equal(back[member], values[member]) for member in group)
    return {name: tensor.clone() for name, tensor in made.items()} if fits else None
