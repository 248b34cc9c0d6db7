"""How probes are measured: splits by group, penalties by cross-validation, controls, all of them drawn once."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mi_core.errors import InputError
from mi_probing.code_length import OnlineCode
from mi_probing.controls import control_labels, seen_types, shuffled
from mi_probing.examples import Examples
from mi_probing.methods import Method
from mi_probing.scoring import losses
from mi_probing.splits import Split, folds_of, split_of
from mi_probing.tasks import Tasks, balanced_weights

__all__ = ["Plan", "Protocol"]

CONTROL_SHARE = 0.25


@dataclass(frozen=True)
class Protocol:
    """How probes are fitted and what they are held against."""

    shares: tuple[float, float, float] = (0.75, 0.0, 0.25)
    """Of the examples: train, validation, test. Whole groups go to one of them."""
    folds: int = 5
    """Over which penalties are chosen; 0 chooses on the validation part."""
    balanced: bool = False
    """Whether all classes weigh the same in a fit."""
    control: bool | None = None
    """A control task; None: where types have several examples."""
    shuffles: int = 0
    """Fits with shuffled labels."""
    code: bool = False
    """Whether to measure the online code length."""
    bins: int = 10
    seed: int = 0
    device: str = ""
    """Where fits are computed, a lot of cells at a time; empty: where the activations, or the model of a sweep, are."""


@dataclass(frozen=True, eq=False)
class Plan:
    """The examples' parts and controls, drawn once for all cells."""

    examples: Examples
    method: Method
    protocol: Protocol
    split: Split
    folds: Int[Tensor, "example"] | None
    seen: Bool[Tensor, "example"] | None
    """Examples held out of the fits on seen types; None without a control task."""
    control: Shaped[Tensor, "example"] | None
    shuffles: list[Tensor] = field(default_factory=list)
    code: OnlineCode | None = None

    @classmethod
    def of(cls, examples: Examples, method: Method, protocol: Protocol) -> Plan:
        """What is fitted on what.

        Raises:
            InputError: a split, fold or control that these examples do not allow, or labels that the probe cannot take.
        """
        classes, labels, groups, seed = len(examples.classes), examples.labels, examples.groups, protocol.seed
        if classes == 0 and not method.numbers:
            raise InputError(
                f"labels are numbers, which a {method.name} probe does not take: ridge, linear and mlp do."
            )
        strata = labels if classes else quartiles(labels)
        split = split_of(groups, strata, protocol.shares, seed=seed)
        folds = None
        if len(method.penalties) > 1 and protocol.folds:
            folds = folds_of(groups, strata, split.development, protocol.folds, seed=seed)
        elif len(method.penalties) > 1 and not bool(split.validation.any()):
            raise InputError("folds=0 chooses penalties on the validation part: give it a share, or folds.")
        wanted = bool(repeated(examples.types)) if protocol.control is None else protocol.control
        everything = torch.ones_like(split.test)
        return cls(
            examples,
            method,
            protocol,
            split,
            folds,
            seen_types(examples.types, everything, CONTROL_SHARE, seed=seed) if wanted else None,
            control_labels(examples.types, labels, seed=seed) if wanted else None,
            [within_parts(labels, groups, split.test, seed + 1 + at) for at in range(protocol.shuffles)],
            OnlineCode.of(groups, labels, classes, seed=seed) if protocol.code and classes and method.logits else None,
        )

    @property
    def classes(self) -> int:
        """How many; 0 for numbers."""
        return len(self.examples.classes)

    def task(self, labels: Tensor, used: Tensor, penalty: Float[Tensor, "cell"]) -> Tasks:
        """One fit in every cell."""
        mask = used.float()
        weights = balanced_weights(labels, mask, self.classes) if self.protocol.balanced else mask
        return Tasks(labels[None], weights[None], penalty[:, None], self.classes)

    def penalty(self, x: Float[Tensor, "cell example d"]) -> Float[Tensor, "cell"]:
        """The penalty with the least loss on what was left out, the strongest of equals."""
        penalties = self.method.penalties
        if len(penalties) == 1:
            return torch.full((len(x),), float(penalties[0]))
        if self.folds is None:
            outs = [(self.split.train, self.split.validation)]
        else:
            inside = self.folds >= 0
            outs = [(inside & (self.folds != fold), self.folds == fold) for fold in range(self.protocol.folds)]
        labels = self.examples.labels
        tasks, left = None, []
        for used, out in outs:
            made = Tasks.of(labels, self.classes, penalties, used, balanced=self.protocol.balanced)
            tasks = made if tasks is None else tasks.joined(made)
            left += [out] * len(penalties)
        assert tasks is not None
        outputs = self.method.fit(x, tasks).outputs(x)
        cost = losses(outputs, tasks.labels.to(x.device), self.classes, self.method.logits)
        out = torch.stack(left).to(cost)
        mean = ((cost * out).sum(-1) / out.sum(-1)).reshape(len(x), len(outs), len(penalties)).mean(1)
        strong_first = mean.flip(1)
        return torch.tensor(penalties[::-1])[strong_first.argmin(1).cpu()]


def quartiles(labels: Float[Tensor, "example"]) -> Int[Tensor, "example"]:
    """Numbers as four classes of equal size, so that parts hold all of their range."""
    edges = torch.quantile(labels, torch.tensor([0.25, 0.5, 0.75]).to(labels))
    return torch.searchsorted(torch.unique(edges), labels)


def repeated(types: Int[Tensor, "example"]) -> bool:
    """Whether a type has several examples."""
    return len(torch.unique(types)) < len(types)


def within_parts(
    labels: Shaped[Tensor, "example"], groups: Int[Tensor, "example"], test: Bool[Tensor, "example"], seed: int
) -> Shaped[Tensor, "example"]:
    """Labels shuffled within the test and within the rest, so that each keeps its classes."""
    made = labels.clone()
    for part in (test, ~test):
        made[part] = shuffled(labels[part], groups[part], seed=seed)
    return made
