"""What a plan says, done: in each lot of cells two fits, one that chooses penalties and one of everything else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from mi_probing.methods import Fitted, Method, probabilities
from mi_probing.protocol import Plan
from mi_probing.scoring import calibration_error, gains, losses, reliability, score, score_interval
from mi_probing.tasks import Linear, Tasks

__all__ = ["measured"]

LOT = 2**25
"""Numbers of activations that are worked on at once."""


def measured(plan: Plan) -> dict[str, Tensor]:
    """Every measure by its name; the first dim of each is the cell. What was not asked for is not there."""
    place = plan.protocol.device or plan.examples.x.device
    parts = [of_lot(plan, x.to(place)) for x in lots(plan.examples.x)]
    return {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}


def lots(x: Float[Tensor, "cell example d"]) -> Iterator[Float[Tensor, "cell example d"]]:
    """The cells a few at a time."""
    step = max(1, LOT // x[0].numel())
    for first in range(0, len(x), step):
        yield x[first : first + step]


@dataclass
class Together:
    """Tasks under names, fitted in one call."""

    tasks: Tasks | None = None
    names: dict[str, slice] = field(default_factory=dict)

    def add(self, name: str, tasks: Tasks) -> None:
        """Some more."""
        first = 0 if self.tasks is None else len(self.tasks)
        self.tasks = tasks if self.tasks is None else self.tasks.joined(tasks)
        self.names[name] = slice(first, len(self.tasks))

    def fitted(self, method: Method, x: Float[Tensor, "cell example d"]) -> tuple[Fitted, dict[str, Tensor]]:
        """The probes, and by name what they say of every example: ``[cell task example output]``."""
        assert self.tasks is not None
        fitted = method.fit(x, self.tasks)
        outputs = fitted.outputs(x).cpu().float()
        return fitted, {name: outputs[:, part] for name, part in self.names.items()}


def of_lot(plan: Plan, x: Float[Tensor, "cell example d"]) -> dict[str, Tensor]:
    """Every measure of some cells."""
    labels, development = plan.examples.labels, plan.split.development
    penalty = plan.penalty(x)
    fits = Together()
    fits.add("probe", plan.task(labels, development, penalty))
    if plan.seen is not None and plan.control is not None:
        fits.add("seen", plan.task(labels, ~plan.seen, penalty))
        fits.add("control", plan.task(plan.control, ~plan.seen, penalty))
    for at, each in enumerate(plan.shuffles):
        fits.add(f"shuffle {at}", plan.task(each, development, penalty))
    if plan.code is not None and plan.code.blocks > 1:
        fits.add("code", plan.code.tasks(labels, plan.classes, penalty))
    fitted, outputs = fits.fitted(plan.method, x)
    found = {"penalty": penalty, **own_measures(plan, outputs["probe"][:, 0]), **control_measures(plan, outputs)}
    if isinstance(fitted, Linear):
        found |= {"weight": fitted.weight[:, 0], "bias": fitted.bias[:, 0]}
        if plan.classes:
            members = torch.stack([development & (labels == label) for label in range(plan.classes)]).to(x)
            found["class_means"] = members / members.sum(1, keepdim=True) @ x
    return found


def own_measures(plan: Plan, outputs: Float[Tensor, "cell example output"]) -> dict[str, Tensor]:
    """How good the probe is on the test, how certain that is, and whether its odds are right."""
    labels, test = plan.examples.labels, plan.split.test
    gained, most = gains(outputs[:, test], labels[test], plan.classes)
    interval = score_interval(gained, most, plan.examples.groups[test], seed=plan.protocol.seed)
    found = {
        "score": gained.sum(-1) / most.sum(),
        "fitted_score": score(outputs[:, ~test], labels[~test], plan.classes),
        "interval": interval.movedim(0, -1),
    }
    if plan.method.logits and plan.classes:
        odds = probabilities(outputs[:, test])
        costs = losses(outputs[:, None, test], labels[None, test], plan.classes, True)
        found["log_loss"] = costs.mean((1, 2))
        found["calibration_error"] = calibration_error(odds, labels[test], plan.protocol.bins)
        found["reliability"] = torch.stack(reliability(odds, labels[test], plan.protocol.bins), -1)
    return found


def control_measures(plan: Plan, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What probes of other labels score, and the length of the code."""
    labels, classes, test, found = plan.examples.labels, plan.classes, plan.split.test, {}
    if plan.seen is not None and plan.control is not None:
        for name, wanted in (("seen", labels), ("control", plan.control)):
            found[name] = score(outputs[name][:, 0, plan.seen], wanted[plan.seen], classes)
    if plan.shuffles:
        scores = [
            score(outputs[f"shuffle {at}"][:, 0, test], each[test], classes) for at, each in enumerate(plan.shuffles)
        ]
        found["shuffled"] = torch.stack(scores, 1)
    if "code" in outputs and plan.code is not None:
        costs = losses(outputs["code"], labels.expand(outputs["code"].shape[1], -1), classes, True)
        found["bits"] = plan.code.bits(costs, classes)
    return found
