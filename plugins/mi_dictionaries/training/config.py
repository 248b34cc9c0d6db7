"""How long, how fast and on what order of data a dictionary is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from mi_core.errors import BadConfig

__all__ = ["TrainingConfig"]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Every choice of a training besides the architecture. Steps are optimizer steps, of ``batch`` tokens each.

    >>> config = TrainingConfig(tokens=4096 * 100, lr=1e-3, lr_warm_up_steps=10, lr_decay_steps=20)
    >>> config.steps, config.rate(0), config.rate(50), config.rate(90)
    (100, 0.0001, 0.001, 0.0005)
    """

    tokens: int
    batch: int = 4096
    lr: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.999)
    lr_schedule: Literal["constant", "cosine"] = "constant"
    lr_warm_up_steps: int = 0
    lr_decay_steps: int = 0
    """Linear, to zero, at the end."""
    lr_end: float | None = None
    """Where the cosine ends; None: a tenth of ``lr``."""
    clip: float = 1.0
    """The largest norm of all gradients together."""
    dead_feature_window: int = 1000
    """Steps without firing behind which a feature counts as dead."""
    normalise: Literal["none", "expected_average_only_in"] = "none"
    """Scale inputs (and outputs, by a factor of their own) to the mean norm ``sqrt(width)``; folded when it ends."""
    mean_start: bool = False
    """Begin with the decoder's bias at the mean of the outputs, estimated with the norm."""
    mix_tokens: int = 2**17
    """Tokens read at once; a batch is drawn from half of these and half of the ones before."""
    seed: int = 0
    log_every: int = 100
    checkpoint_every: int = 0
    """Steps between checkpoints; 0: at the end and when interrupted."""

    def __post_init__(self) -> None:
        for name in ("tokens", "batch", "mix_tokens", "log_every", "dead_feature_window"):
            if getattr(self, name) < 1:
                raise BadConfig(f"{name}={getattr(self, name)!r}: give a positive number.", field=name)
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise BadConfig(f"lr={self.lr!r}: give a positive number.", field="lr")
        if self.lr_schedule not in ("constant", "cosine"):
            raise BadConfig(f"lr_schedule={self.lr_schedule!r}: give constant or cosine.", field="lr_schedule")
        if self.normalise not in ("none", "expected_average_only_in"):
            raise BadConfig(f"normalise={self.normalise!r}: give none or expected_average_only_in.", field="normalise")
        if self.mix_tokens < 2 * self.batch:
            raise BadConfig(
                f"mix_tokens={self.mix_tokens!r} with batch={self.batch!r}: at least two batches are mixed.",
                field="mix_tokens",
            )
        if self.lr_warm_up_steps + self.lr_decay_steps > self.steps:
            raise BadConfig(
                f"{self.lr_warm_up_steps} steps of warm-up and {self.lr_decay_steps} of decay do not fit into "
                f"{self.steps} steps of {self.batch} tokens.",
                field="lr_warm_up_steps",
            )

    @property
    def steps(self) -> int:
        """How many optimizer steps."""
        return math.ceil(self.tokens / self.batch)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from zero.

        Source: SAELens 6.54, training/optim.py, for what it calls constant and cosineannealing.
        """
        end = self.lr / 10 if self.lr_end is None else self.lr_end
        last = self.steps - self.lr_decay_steps
        if step < self.lr_warm_up_steps:
            return self.lr * (step + 1) / self.lr_warm_up_steps
        through = min(step, last) - self.lr_warm_up_steps
        if self.lr_schedule == "cosine":
            length = max(last - self.lr_warm_up_steps, 1)
            rate = end + (self.lr - end) * (1 + math.cos(math.pi * through / length)) / 2
        else:
            rate = self.lr
        return rate if step < last else rate * (1 - (step - last) / self.lr_decay_steps)

    def warmed(self, value: float, steps: int, step: int) -> float:
        """A coefficient of a step, which grows over ``steps`` from zero."""
        return value * min(step / steps, 1.0) if steps else value

    def written(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> TrainingConfig:
        """From a mapping.

        Raises:
            BadConfig: a field that there is not.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(written.keys() - set(known))
        if unknown:
            raise BadConfig(f"no field {unknown[0]!r}. There are: {', '.join(known)}.", field=unknown[0])
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in written.items()
        }
        return cls(**values)
