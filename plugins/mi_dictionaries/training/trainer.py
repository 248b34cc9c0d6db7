"""One step after another: forward, backward, clip, Adam, and who has not fired for how long."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mi_dictionaries.training.config import TrainingConfig
from mi_dictionaries.training.parallel import Team
from mi_dictionaries.training.scaling import Scale
from mi_dictionaries.training.trainee import Learner, Moment, Step

__all__ = ["Trainer"]


class Trainer:
    """A dictionary, its optimizer, and what is counted. Everything that a step depends on is in `state`.

    Source: SAELens 6.54, training/sae_trainer.py, ``_train_step``.
    """

    def __init__(
        self,
        learner: Learner[Any],
        config: TrainingConfig,
        widths: tuple[int, ...],
        scale: Scale | None = None,
        team: Team | None = None,
    ) -> None:
        self.learner, self.config, self.widths = learner, config, widths
        self.team = team or Team()
        self.scale = scale or Scale((1.0,) * len(widths), ())
        self.parameters = list(learner.parameters())
        device = self.parameters[0].device
        # fused: one pass over parameters and moments instead of ten
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.lr, betas=config.betas, fused=True)
        self.done = 0
        self.since_fired = torch.zeros(learner.features, device=device)
        self.fires = torch.zeros(learner.features, device=device)
        self.counted = 0

    @property
    def dead(self) -> Bool[Tensor, "feature"]:
        """Features that have not fired for longer than the window."""
        return self.since_fired > self.config.dead_feature_window

    @property
    def coefficients(self) -> dict[str, float]:
        """The sparsity coefficients of the next step."""
        given = self.learner.coefficients().items()
        return {name: self.config.warmed(value, steps, self.done) for name, (value, steps) in given}

    def advance(self, tokens: Float[Tensor, "token width"]) -> tuple[Step, tuple[Tensor, ...]]:
        """One step on a batch; returns what it gave, and the activations as they were scaled."""
        parts = self.scale.apply(tokens.to(self.since_fired.device), self.widths)
        dead = self.dead
        step = self.learner(parts, Moment(dead if bool(dead.any()) else None, self.coefficients))
        step.loss.backward()
        self.gather(step.fired)
        nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(self.done)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.since_fired += 1
        self.since_fired[step.fired > 0] = 0
        self.fires += step.fired
        self.counted += len(tokens) * self.team.size
        self.done += 1
        return step, parts

    def gather(self, fired: Float[Tensor, "feature"]) -> None:
        """Bring gradients, counts and running thresholds together."""
        if self.team.size == 1:
            return
        buffers = [buffer for buffer in self.learner.buffers() if buffer.is_floating_point()]
        self.team.average([*(p.grad for p in self.parameters if p.grad is not None), *buffers, fired])
        fired *= self.team.size

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on, under names of its own."""
        found = {f"learner/{name}": value for name, value in self.learner.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer/{index}/{name}": torch.as_tensor(value) for name, value in moments.items()}
        found |= {"since_fired": self.since_fired, "fires": self.fires}
        return {**found, **{f"scale/{name}": value for name, value in self.scale.tensors().items()}}

    def restore(self, tensors: dict[str, Tensor], done: int, counted: int) -> None:
        """Go on from a `state`."""
        groups: dict[str, dict[str, Tensor]] = {"learner": {}, "optimizer": {}, "scale": {}}
        for name, tensor in tensors.items():
            group, _, rest = name.partition("/")
            if rest:
                groups[group][rest] = tensor
        self.learner.load_state_dict(groups["learner"])
        state = self.optimizer.state_dict()
        state["state"] = {}
        for name, tensor in groups["optimizer"].items():
            index, _, moment = name.partition("/")
            state["state"].setdefault(int(index), {})[moment] = tensor
        self.optimizer.load_state_dict(state)
        self.scale = Scale.read(groups["scale"])
        self.since_fired.copy_(tensors["since_fired"])
        self.fires.copy_(tensors["fires"])
        self.done, self.counted = done, counted

    @torch.no_grad()
    def measures(self, step: Step, parts: tuple[Tensor, ...]) -> dict[str, float]:
        """What is worth a look now and then: losses, explained variance, L0, dead features, rates."""
        error = variance = 0.0
        for out, target in zip(step.outs, self.learner.targets(parts), strict=True):
            error += float((out - target).double().square().sum())
            variance += float((target.double() - target.double().mean(0)).square().sum())
        return {
            **{name: float(loss.detach()) for name, loss in step.losses.items()},
            "explained_variance": 1 - error / variance if variance else float("nan"),
            "l0": float(step.fired.sum()) / (len(parts[0]) * self.team.size),
            "dead": int(self.dead.sum()),
            "lr": self.config.rate(self.done - 1),
            **{f"{name}_coefficient": value for name, value in self.coefficients.items()},
        }
