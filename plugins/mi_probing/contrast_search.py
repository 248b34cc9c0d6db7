"""Contrast-consistent search over layers and positions: does a model tell true from false, found without labels?

Reach for it with pairs, a statement and its negation. Labels serve to say which end of what was found is "true", and to
score it on pairs that were held out.

Source: Burns et al. 2022, "Discovering Latent Knowledge in Language Models Without Supervision" (arXiv:2212.03827).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

import mi_core as mi
from mi_core.analyses import Analysis, require
from mi_core.errors import InputError
from mi_core.hookspecs import hookimpl
from mi_core.labelled import Labelled
from mi_probing.contrast import contrast_consistent
from mi_probing.examples import Examples, check_count
from mi_probing.probing import NEEDS, Probing, probing_of
from mi_probing.protocol import Protocol
from mi_probing.reading import SITE, Reading, read_examples
from mi_probing.scoring import chosen
from mi_probing.tasks import Linear, Tasks

__all__ = ["ContrastConsistent", "contrast_search"]


@dataclass(frozen=True)
class ContrastConsistent:
    """A probe of pairs: an example is a statement's activations and, behind them, those of its negation.

    A pair is judged true where the statement's odds are above the negation's, which is linear in both; labels only turn
    the direction round. Starts are drawn from the ``seed``; the most consistent one is taken.
    """

    starts: int = 10
    steps: int = 1000
    seed: int = 0
    name: ClassVar[str] = "contrast-consistent"
    penalties: ClassVar[tuple[float, ...]] = (0.0,)
    logits: ClassVar[bool] = True
    numbers: ClassVar[bool] = False

    def fit(self, x: Float[Tensor, "cell example both"], tasks: Tasks) -> Linear:
        """By `contrast_consistent`, of each task's pairs.

        Raises:
            InputError: rows that are no pairs, or labels of more than two classes.
        """
        if x.shape[-1] % 2 or tasks.classes != 2:
            raise InputError(
                f"contrast pairs: rows of {x.shape[-1]} numbers and {tasks.classes} classes; a row is a statement and "
                "its negation, and either is true."
            )
        made = [
            self.of_pairs(x, labels, weights > 0) for labels, weights in zip(tasks.labels, tasks.weights, strict=True)
        ]
        return Linear(torch.cat([one.weight for one in made], 1), torch.cat([one.bias for one in made], 1))

    def of_pairs(self, x: Tensor, labels: Tensor, used: Tensor) -> Linear:
        """One task's probes."""
        pairs = x[:, used.to(x.device)]
        sides = contrast_consistent(*pairs.chunk(2, -1), starts=self.starts, steps=self.steps, seed=self.seed)
        weight = torch.cat([sides[0].weight, -sides[1].weight], -1) / 2
        found = Linear(weight, (sides[0].bias - sides[1].bias) / 2)
        right = chosen(found.outputs(pairs)[:, 0]) == labels.to(x.device)[used.to(x.device)]
        sign = torch.where(right.float().mean(-1) < 0.5, -1.0, 1.0)[:, None, None]
        return Linear(sign[..., None] * found.weight, sign * found.bias)


def contrast_search(
    model: mi.Model,
    statements: Sequence[Any],
    negations: Sequence[Any],
    truth: Sequence[Any] | Tensor,
    *,
    probe: ContrastConsistent | None = None,
    protocol: Protocol | None = None,
    **reading: Unpack[Reading],
) -> Probing:
    """Does a model tell statements from their negations by their truth, found without labels?

    The result is that of `probing`: the score is the share of held-out pairs that are judged right. ``result.probe()``
    is the statements' side, to read, to steer along and to check, with its threshold halfway between the means.

    Args:
        model: any model with the site.
        statements: a list of prompts.
        negations: one for each statement, true where it is false.
        truth: whether each statement is true; two classes, the second of which in the order of names counts as true.
        probe: starts and steps; `ContrastConsistent`.
        protocol: splits and controls; shuffled labels cost a search each.
        reading: as `read_examples` takes it: ``groups``, ``types``, ``site``, ``layers``, ``pos``, ``spec``, ``batch``.

    Raises:
        UnsupportedAnalysis: the model does not have the site.
        InputError: sides of other lengths, or labels that are not of two classes.
    """
    require(model, [reading.get("site", SITE)], "contrast_search")
    check_count(negations, len(statements), "negations")
    protocol = protocol or Protocol(control=False)
    protocol = replace(protocol, device=protocol.device or str(model.device))
    sides = [read_examples(model, side, truth, **reading) for side in (statements, negations)]
    return of_statements(probing_of(paired(*sides), probe=probe or ContrastConsistent(), protocol=protocol))


def paired(statements: Examples, negations: Examples) -> Examples:
    """Both sides as the examples of one: behind each statement its negation."""
    return replace(statements, x=torch.cat([statements.x, negations.x], -1))


def of_statements(result: Probing) -> Probing:
    """The result with the statements' half of what was fitted."""
    assert result.weight is not None
    assert result.class_means is not None
    weight, means = (first_half(one) for one in (result.weight, result.class_means))
    middle = means.values.mean(-2, keepdim=True)
    bias = replace(result.bias, values=-(weight.values * middle).sum(-1)) if result.bias is not None else None
    return replace(result, weight=weight, bias=bias, class_means=means)


def first_half(array: Labelled) -> Labelled:
    """The first half of the last axis."""
    half = array.values.shape[-1] // 2
    return replace(array, values=array.values[..., :half], coords={**array.coords, "d": range(half)})


@hookimpl
def mi_analysis() -> Analysis:
    """What the core needs to know about it."""
    return Analysis("Does the model tell true from false, found without labels?", NEEDS, contrast_search)


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi contrast``."""
    from mi_probing.contrast_command import contrast

    return contrast
