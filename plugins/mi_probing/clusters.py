"""k-means: do activations fall into the classes on their own? Labels only name the clusters.

Source: Lloyd 1982, "Least squares quantization in PCM"; the start is k-means++ (Arthur and Vassilvitskii 2007).
"""

from __future__ import annotations

from itertools import permutations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_core.errors import InputError
from mi_probing.closed_forms import keep, prepared
from mi_probing.tasks import Linear, Tasks

__all__ = ["fit_clusters"]

STEPS = 100
MOST_CLASSES = 7


def fit_clusters(
    x: Float[Tensor, "cell example d"], tasks: Tasks, *, starts: int = 10, seed: int = 0, scaled: bool = False
) -> Linear:
    """Probes that choose the nearest of as many centers as there are classes, named as fits the labels best.

    On activations as they are, unless ``scaled``: what has the most variance parts them.

    Raises:
        InputError: too many classes to try every naming.
    """
    if not 2 <= tasks.classes <= MOST_CLASSES:
        raise InputError(f"{tasks.classes} classes: k-means names from 2 to {MOST_CLASSES} clusters.")
    tasks, data, made = prepared(x, tasks, scaled)
    for task in range(len(tasks)):
        used = tasks.weights[task] > 0
        seen = ((data.x - data.mean[:, task, None]) / data.scale[:, task, None])[:, used]
        centers = nearest_centers(seen, tasks.classes, starts, seed)
        order = best_naming(closest(seen, centers), tasks.labels[task, used], tasks.classes)
        centers = centers.gather(1, order[..., None].expand_as(centers))
        weight, bias = centers, -(centers**2).sum(-1) / 2
        if tasks.outputs == 1:
            weight, bias = weight[:, 1:] - weight[:, :1], bias[:, 1:] - bias[:, :1]
        keep(made, task, weight, bias)
    return data.raw(made)


def closest(x: Float[Tensor, "cell example d"], centers: Float[Tensor, "cell class d"]) -> Int[Tensor, "cell example"]:
    """The nearest center of each example."""
    return (x @ centers.transpose(1, 2) - (centers**2).sum(-1)[:, None] / 2).argmax(-1)


def nearest_centers(
    x: Float[Tensor, "cell example d"], classes: int, starts: int, seed: int
) -> Float[Tensor, "cell class d"]:
    """The best of several starts: centers with the least squared distance to their examples."""
    best, least = x.new_zeros(len(x), classes, x.shape[-1]), x.new_full((len(x),), torch.inf)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(starts):
        centers = spread_out(x, classes, generator)
        for _ in range(STEPS):
            member = torch.nn.functional.one_hot(closest(x, centers), classes).to(x)
            sums = member.transpose(1, 2) @ x
            counts = member.sum(1)[..., None]
            moved = torch.where(counts > 0, sums / counts.clamp_min(1), centers)
            if torch.equal(moved, centers):
                break
            centers = moved
        distance = torch.cdist(x, centers).amin(-1).square().sum(-1)
        better = distance < least
        best = torch.where(better[:, None, None], centers, best)
        least = torch.where(better, distance, least)
    return best


def spread_out(
    x: Float[Tensor, "cell example d"], classes: int, generator: torch.Generator
) -> Float[Tensor, "cell class d"]:
    """Examples drawn as first centers, each by its squared distance from those before."""
    distance = x.new_ones(x.shape[:2])
    centers: list[Tensor] = []
    for _ in range(classes):
        drawn = torch.multinomial(distance.cpu().double() + 1e-30, 1, generator=generator).to(x.device)
        centers.append(x.gather(1, drawn[..., None].expand(-1, -1, x.shape[-1])))
        distance = torch.cdist(x, torch.cat(centers, 1)).amin(-1).square()
    return torch.cat(centers, 1)


def best_naming(
    found: Int[Tensor, "cell example"], labels: Int[Tensor, "example"], classes: int
) -> Int[Tensor, "cell class"]:
    """For each class the cluster that stands for it, so that most examples are right."""
    member = torch.nn.functional.one_hot(labels.long(), classes).float()
    cluster = torch.nn.functional.one_hot(found, classes).float()
    agreement = member.T @ cluster  # [cell class cluster]
    orders = torch.tensor(list(permutations(range(classes))), device=found.device)
    right = agreement[:, torch.arange(classes, device=found.device), orders].sum(-1)
    return orders[right.argmax(-1)]
