"""How much of a network's behaviour an explanation explains, in bits.

The total surprise of an explanation is the bits that it takes to state it, and the bits that the network's answers
still take once it is stated. An explanation is worth its length if the sum is less than what the answers take without.

Source: Alignment Research Center 2024, "Formal verification, heuristic explanations and surprise accounting"; the bits
of the answers are those of a two-part code, Rissanen 1978, "Modeling by shortest data description".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

import mi_core as mi
from mi_algzoo.accuracy import answers, length_of, task_for
from mi_algzoo.tasks import TASKS
from mi_algzoo.weights import RNNWeights
from mi_core.errors import InputError
from mi_core.labelled import Labelled
from mi_core.results import Result, ResultProvenance

__all__ = ["Explanation", "Surprise", "answer_bits", "explanations_of", "surprise"]


@dataclass(frozen=True)
class Explanation:
    """A claim about what a model answers: which class to each input, and how many bits it takes to state the claim.

    ``predict`` is None where nothing is claimed.
    """

    name: str
    bits: float
    predict: Callable[[Shaped[Tensor, "batch n"]], Int[Tensor, "batch"]] | None = None


@dataclass(frozen=True, kw_only=True, eq=True)
class Surprise(Result):
    """Several explanations of the same answers."""

    stated: Labelled
    """Bits to state each explanation: explanation."""
    unexplained: Labelled
    """Bits that the answers take once it is stated: explanation."""
    total: Labelled
    """Their sum: explanation."""
    agreement: Labelled
    """The share of inputs to which it predicts what the model answers: explanation."""
    inputs: int
    """How many answers are accounted for: every input there is, or so many random ones."""

    title: ClassVar[str] = "Surprise accounting"

    @property
    def best(self) -> str:
        """The explanation of least total surprise."""
        return str(self.total.coords["explanation"][int(self.total.values.argmin())])


def surprise(
    model: mi.Model,
    task: str,
    explanations: Sequence[Explanation] | None = None,
    *,
    samples: int = 10_000,
    seed: int = 0,
) -> Surprise:
    """Which explanation of a model's answers leaves the least surprise?

    Without ``explanations`` these: none at all, the task's own label, and (of a recurrent network) its weights in
    several precisions. Answers to random inputs differ with their number: with more of them, longer explanations pay.

    Raises:
        InputError: another task than the model's, or no inputs.
    """
    kind, n = task_for(model, task), length_of(model)
    if samples < 1:
        raise InputError(f"samples={samples!r}: there must be answers to account for.", samples=samples)
    x = kind.domain(n) if kind.finite else kind.draw(samples, n, seed)
    given = answers(model, x)
    claims = list(explanations) if explanations is not None else explanations_of(model, task)
    rows = []
    for claim in claims:
        said = None if claim.predict is None else claim.predict(x)
        agreed = 1 / kind.classes(n) if said is None else float((said == given).double().mean())
        rows.append((claim.bits, answer_bits(given, said, kind.classes(n)), agreed))
    names = {"explanation": [claim.name for claim in claims]}
    stated, left, agreement = (torch.tensor([row[index] for row in rows], dtype=torch.float64) for index in range(3))

    def labelled(values: Tensor, name: str) -> Labelled:
        return Labelled(values, ("explanation",), coords=names, name=name)

    return Surprise(
        provenance=ResultProvenance.of_weights(model),
        stated=labelled(stated, "stated"),
        unexplained=labelled(left, "unexplained"),
        total=labelled(stated + left, "total"),
        agreement=labelled(agreement, "agreement"),
        inputs=len(x),
    )


def classes_of(weights: RNNWeights, x: Tensor) -> Tensor:
    """What a network answers."""
    return weights(x).argmax(-1)


def answer_bits(given: Int[Tensor, "batch"], said: Int[Tensor, "batch"] | None, classes: int) -> float:
    """The bits of answers, once an explanation has said what it expects.

    Without one, each answer takes ``log2(classes)``. With one: the number of answers that it misses, which of them they
    are, and for each which of the other classes it is.

    >>> eight, seven = torch.zeros(8, dtype=torch.long), torch.zeros(7, dtype=torch.long)
    >>> answer_bits(eight, None, 4), answer_bits(seven, seven, 4)
    (16.0, 3.0)
    """
    count = len(given)
    if said is None:
        return count * math.log2(classes)
    missed = int((said != given).sum())
    which = (math.lgamma(count + 1) - math.lgamma(missed + 1) - math.lgamma(count - missed + 1)) / math.log(2)
    return math.log2(count + 1) + which + missed * math.log2(max(classes - 1, 1))


def explanations_of(model: mi.Model, task: str, bits: Sequence[int] = (3, 4, 6, 8)) -> list[Explanation]:
    """No explanation, the task, and the network itself with each weight in so many bits."""
    kind = task_for(model, task)
    found = [Explanation("none", 0.0), Explanation(f"it does {task}", math.log2(len(TASKS)), kind.label)]
    if model.shape.numbers is not None:
        weights = RNNWeights.of(model)
        for each in bits:
            # one scale for each of the three matrices, in half precision
            stated = weights.size * each + 3 * 16.0
            rounded = weights.rounded(each)
            found.append(Explanation(f"weights in {each} bits", stated, partial(classes_of, rounded)))
    return found
