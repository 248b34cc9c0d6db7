"""The regions on which a ReLU network is linear: which units are on at which step.

In up to three dimensions they are listed, all of them, with the exact share of inputs that each holds; beyond that,
those that random inputs fall into, with an estimate of what was missed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

import mi_core as mi
from mi_algzoo.cones import EXACT_UP_TO, cut, measure, orthants
from mi_algzoo.weights import RNNWeights
from mi_core.errors import InputError
from mi_core.labelled import Labelled
from mi_core.results import Result, ResultProvenance

__all__ = ["Regions", "linear_map", "pattern_of", "pieces_of", "regions"]


@dataclass(frozen=True, kw_only=True, eq=True)
class Regions(Result):
    """The regions of a network, the largest first."""

    share: Labelled
    """Of standard normal inputs, in each region: region."""
    pattern: Labelled
    """Which units are on, 1 or 0: region step unit."""
    maps: Labelled
    """What each output is there, as a linear function of the numbers: region out step."""
    exact: bool
    """Whether these are all regions and their exact shares; else both come from random inputs."""
    covered: float
    """The estimated share of inputs that lie in the listed regions: 1.0 where they are all."""

    title: ClassVar[str] = "Linear regions"
    views: ClassVar[str] = "mi_algzoo.regions_view"


def regions(model: mi.Model, *, samples: int = 100_000, seed: int = 0) -> Regions:
    """On which regions is the network linear, and what is it there?

    Args:
        model: a network of model_type ``algzoo_rnn``.
        samples: standard normal inputs to draw, where it reads more than three numbers.
        seed: of the draw.

    Raises:
        UnsupportedAnalysis: it is no such network.
        InputError: fewer than one sample.
    """
    weights = RNNWeights.of(model)
    exact = weights.steps <= EXACT_UP_TO
    found = listed(weights) if exact else drawn(weights, samples, seed)
    patterns = torch.stack([pattern for pattern, _ in found])
    shares = torch.tensor([share for _, share in found], dtype=torch.float64)
    covered = 1.0 if exact else 1.0 - float((shares * samples).round().eq(1).sum()) / samples
    maps = torch.stack([linear_map(weights, pattern) for pattern in patterns])
    return Regions(
        provenance=ResultProvenance.of_weights(model),
        share=Labelled(shares, ("region",), name="share"),
        pattern=Labelled(patterns.to(torch.int8), ("region", "step", "unit"), name="pattern"),
        maps=Labelled(maps, ("region", "out", "step"), name="map"),
        exact=exact,
        covered=covered,
    )


def listed(weights: RNNWeights) -> list[tuple[Tensor, float]]:
    """All patterns and the exact share of each, the largest first."""
    shares: dict[bytes, float] = {}
    patterns: dict[bytes, Tensor] = {}
    for pattern, cone in pieces_of(weights):
        key = bytes(pattern.flatten().tolist())
        patterns[key] = pattern
        shares[key] = shares.get(key, 0.0) + float(measure(cone[None])[0])
    order = sorted(shares, key=lambda key: -shares[key])
    return [(patterns[key], shares[key]) for key in order]


def pieces_of(weights: RNNWeights) -> Iterator[tuple[Bool[Tensor, "step unit"], Float[Tensor, "n n"]]]:
    """All of input space in simplicial cones, each with the units that are on within it.

    A step's units are linear on a cone on which the steps before are: it is cut by each unit's own hyperplane in turn.
    A unit that is zero on all of a cone counts as off.
    """
    n = weights.steps
    todo = [(torch.zeros(0, weights.units, dtype=torch.bool), cone) for cone in orthants(n)]
    while todo:
        pattern, cone = todo.pop()
        if len(pattern) == n:
            yield pattern, cone
            continue
        pieces: list[tuple[list[bool], Tensor]] = [([], cone)]
        for normal in next_step(weights, pattern):
            pieces = [([*on, side > 0], piece) for on, whole in pieces for piece, side in sides(whole, normal)]
        todo += [(torch.cat((pattern, torch.tensor([on]))), piece) for on, piece in pieces]


def sides(cone: Tensor, normal: Tensor) -> Iterator[tuple[Tensor, int]]:
    """The pieces of a cone by the side on which they lie; the whole, where the unit is zero everywhere."""
    if float(normal.norm()) == 0:
        yield cone, 0
    else:
        yield from cut(cone, normal)


def next_step(weights: RNNWeights, pattern: Bool[Tensor, "done unit"]) -> Float[Tensor, "unit n"]:
    """The units of the step behind ``pattern``, before their ReLU, as linear functions of all numbers."""
    time = len(pattern)
    pre = weights.w_hh @ hidden_map(weights, pattern)
    pre[:, time] += weights.w_ih
    return pre


def hidden_map(weights: RNNWeights, pattern: Bool[Tensor, "done unit"]) -> Float[Tensor, "unit n"]:
    """The hidden state behind the steps of ``pattern``, as a linear function of all numbers."""
    state = torch.zeros(weights.units, weights.steps, dtype=weights.w_hh.dtype)
    for time, on in enumerate(pattern):
        state = weights.w_hh @ state
        state[:, time] += weights.w_ih
        state = state * on[:, None]
    return state


def linear_map(weights: RNNWeights, pattern: Bool[Tensor, "step unit"]) -> Float[Tensor, "out step"]:
    """What the outputs are where exactly these units are on: ``out = map @ numbers``."""
    return weights.w_oh @ hidden_map(weights, pattern.bool())


def pattern_of(weights: RNNWeights, x: Float[Tensor, "batch step"]) -> Bool[Tensor, "batch step unit"]:
    """Which units each input turns on."""
    return (weights.trace(x) > 0).transpose(0, 1)


def drawn(weights: RNNWeights, samples: int, seed: int) -> list[tuple[Tensor, float]]:
    """The patterns that random inputs have, and how many of them: the most frequent first."""
    if samples < 1:
        raise InputError(f"samples={samples!r}: draw at least one input.", samples=samples)
    x = torch.randn(samples, weights.steps, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found, counts = torch.unique(pattern_of(weights, x).flatten(1), dim=0, return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    patterns = found[order].reshape(-1, weights.steps, weights.units)
    return list(zip(patterns, (counts[order] / samples).tolist(), strict=True))
