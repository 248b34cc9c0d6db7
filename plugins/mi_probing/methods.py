"""The probes by name: what each fits, which penalties it tries, and whether its outputs are logits.

A method is anything with these attributes and ``fit``: a sweep takes ours and yours alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.errors import InputError
from mi_probing.closed_forms import fit_discriminant, fit_ridge
from mi_probing.clusters import fit_clusters
from mi_probing.logistic import fit_logistic
from mi_probing.perceptron import fit_perceptron
from mi_probing.sparse import fit_sparse
from mi_probing.tasks import Linear, Tasks

__all__ = [
    "METHODS",
    "Discriminant",
    "Estimator",
    "Fitted",
    "KMeans",
    "Logistic",
    "MassMean",
    "Method",
    "Mlp",
    "Ridge",
    "Sparse",
    "method_of",
]

PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)


class Fitted(Protocol):
    """Probes of every cell and task."""

    def outputs(self, x: Float[Tensor, "cell example d"]) -> Float[Tensor, "cell task example output"]:
        """What they say of activations."""


class Method(Protocol):
    """One kind of probe."""

    @property
    def name(self) -> str:
        """What it is called in results."""

    @property
    def penalties(self) -> tuple[float, ...]:
        """What is tried, from weak to strong; one where there is nothing to choose."""

    @property
    def logits(self) -> bool:
        """Whether outputs are logits, so that there are probabilities, calibration and code lengths."""

    @property
    def numbers(self) -> bool:
        """Whether it takes labels that are numbers."""

    def fit(self, x: Float[Tensor, "cell example d"], tasks: Tasks) -> Fitted:
        """The probes of all cells and tasks."""


@dataclass(frozen=True)
class Logistic:
    """Logistic regression, two or more classes; penalties are scikit-learn's ``1 / C`` on standardised activations."""

    penalties: tuple[float, ...] = PENALTIES
    tolerance: float = 1e-4
    name: ClassVar[str] = "logistic"
    logits: ClassVar[bool] = True
    numbers: ClassVar[bool] = False

    def fit(self, x: Float[Tensor, "cell example d"], tasks: Tasks) -> Linear:
        """By `fit_logistic`."""
        return fit_logistic(x, tasks, tolerance=self.tolerance)


@dataclass(frozen=True)
class Ridge:
    """Least squares; of classes on -1 and 1, of numbers on themselves. A penalty of 0 is linear regression."""

    penalties: tuple[float, ...] = PENALTIES
    name: ClassVar[str] = "ridge"
    logits: ClassVar[bool] = False
    numbers: ClassVar[bool] = True

    def fit(self, x: Float[Tensor, "cell example d"], tasks: Tasks) -> Linear:
        """By `fit_ridge`."""
        return fit_ridge(x, tasks)


@dataclass(frozen=True)
class Discriminant:
    """The linear discriminant; penalties are shrinkages of the covariance, from 0 to 1."""

    penalties: tuple[float, ...] = (0.001, 0.01, 0.1, 0.3, 0.9)
    name: ClassVar[str] = "discriminant"
    logits: ClassVar[bool] = True
    numbers: ClassVar[bool] = False

    def fit(self, x: Float[Tensor, "cell example d"], tasks: Tasks) -> Linear:
        """By `fit_discriminant`."""
        if not bool(((tasks.penalty >= 0) & (tasks.penalty <= 1)).all()):
            raise InputError(f"penalties {self.penalties}: a discriminant takes shrinkages from 0 to 1.")
        return fit_discriminant(x, tasks)


@dataclass(frozen=True)
class MassMean:
    """The difference of means of activations as they are; ``corrected`` divides by the covariance within classes."""

    corrected: bool = False
    shrinkage: float = 0.0
    logits: ClassVar[bool] = True
    numbers: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """Both forms have one."""
        return "mass mean, corrected" if self.corrected else "mass mean"

    @property
    def penalties(self) -> tuple[float, ...]:
        """Nothing is chosen."""
        return (self.shrinkage,)

    def fit(self, x: Float[Tensor, "cell example d"], tasks: Tasks) -> Linear:
        """By `fit_discriminant`."""
        return fit_discriminant(x, tasks, covariance=self.corrected, priors=False, scaled=False)


@dataclass(frozen=True)
class Sparse:
    """A logistic probe on the k features whose class means lie farthest apart."""

    k: int = 8
    penalties: tuple[float, ...] = PENALTIES
    logits: ClassVar[bool] = True
    numbers: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """With its k."""
        return f"{self.k}-sparse"

    def fit(self, x: Float[Tensor, "cell example d"], tasks: Tasks) -> Linear:
        """By `fit_sparse`."""
        return fit_sparse(x, tasks, self.k)


@dataclass(frozen=True)
class KMeans:
    """As many clusters as classes, found without labels and named by them."""

    starts: int = 10
    seed: int = 0
    name: ClassVar[str] = "k-means"
    penalties: ClassVar[tuple[float, ...]] = (0.0,)
    logits: ClassVar[bool] = False
    numbers: ClassVar[bool] = False

    def fit(self, x: Float[Tensor, "cell example d"], tasks: Tasks) -> Linear:
        """By `fit_clusters`."""
        return fit_clusters(x, tasks, starts=self.starts, seed=self.seed)


@dataclass(frozen=True)
class Mlp:
    """One hidden layer: a control for what is there, but not linearly so. It has no direction."""

    hidden: int = 32
    steps: int = 300
    penalties: tuple[float, ...] = (1.0, 10.0)
    seed: int = 0
    name: ClassVar[str] = "mlp"
    logits: ClassVar[bool] = True
    numbers: ClassVar[bool] = True

    def fit(self, x: Float[Tensor, "cell example d"], tasks: Tasks) -> Fitted:
        """By `fit_perceptron`."""
        return fit_perceptron(x, tasks, hidden=self.hidden, steps=self.steps, seed=self.seed)


@dataclass(frozen=True)
class Estimator:
    """Any linear estimator of scikit-learn: a clone of it for each cell and task, one after the other.

    ``penalty_name`` is the parameter that takes the penalty; ``inverted`` gives it ``1 / penalty``, as for ``C``.
    """

    estimator: Any
    penalty_name: str = ""
    penalties: tuple[float, ...] = (1.0,)
    inverted: bool = False
    logits: bool = False
    numbers: bool = False

    @property
    def name(self) -> str:
        """The estimator's own."""
        return type(self.estimator).__name__

    def fit(self, x: Float[Tensor, "cell example d"], tasks: Tasks) -> Linear:
        """By `mi_probing.estimators.fit_estimator`."""
        from mi_probing.estimators import fit_estimator

        return fit_estimator(x, tasks, self.estimator, self.penalty_name, self.inverted)


METHODS: dict[str, Method] = {
    "logistic": Logistic(),
    "ridge": Ridge(),
    "linear": Ridge(penalties=(0.0,)),
    "discriminant": Discriminant(),
    "mass-mean": MassMean(),
    "mass-mean-corrected": MassMean(corrected=True),
    "sparse": Sparse(),
    "k-means": KMeans(),
    "mlp": Mlp(),
}
"""The methods that have a name; their options are given by making one: ``Sparse(k=4)``."""


def method_of(given: str | Method) -> Method:
    """The method of a name, or the one that was given.

    Raises:
        InputError: no method has this name.
    """
    if not isinstance(given, str):
        return given
    if given not in METHODS:
        raise InputError(f"probe={given!r}: the probes are {', '.join(METHODS)}.", probe=given)
    return METHODS[given]


def probabilities(outputs: Float[Tensor, "*rows output"]) -> Float[Tensor, "*rows class"]:
    """Logits as probabilities of every class.

    >>> probabilities(torch.zeros(1, 1)).tolist()
    [[0.5, 0.5]]
    """
    if outputs.shape[-1] > 1:
        return outputs.softmax(-1)
    return torch.cat([(-outputs).sigmoid(), outputs.sigmoid()], -1)
