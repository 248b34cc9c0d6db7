"""Training from the first step to a dictionary."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from mi_dictionaries.about import About
from mi_dictionaries.training.checkpoints import load_checkpoint, save_checkpoint
from mi_dictionaries.training.config import TrainingConfig
from mi_dictionaries.training.exporting import Trained, dictionary_of
from mi_dictionaries.training.making import learner_of
from mi_dictionaries.training.metrics import Display, MetricLines
from mi_dictionaries.training.mixing import Mixer
from mi_dictionaries.training.options import Options
from mi_dictionaries.training.parallel import Team
from mi_dictionaries.training.scaling import Scale
from mi_dictionaries.training.streams import Chunks
from mi_dictionaries.training.trainer import Trainer

__all__ = ["train"]

ESTIMATED = 2**16
"""Tokens of which norms and means are estimated."""


def train(
    source: Chunks,
    options: Options,
    config: TrainingConfig,
    *,
    out: str | PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    progress: bool | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Trained | None:
    """Which sparse features make up these activations? A dictionary, trained on them.

    With one point it is an autoencoder; with two a transcoder of the first to the second; `options.CrossLayer` takes
    as many points to write as to read, those that are read first. The same source, options and config give the same
    dictionary, bit for bit on one machine, also where the training was interrupted: the same call goes on from the
    checkpoint in ``out``. Under ``accelerate launch`` each process takes its own chunks, and ``config.batch`` is the
    batch of all together.

    Args:
        source: `LiveActivations` of a model, or `StoredActivations`.
        options: The architecture and its losses: `TopK`, `JumpReLU`, `CrossLayer`, ...
        config: Tokens, learning rate, order of data.
        out: A folder for the checkpoint and ``metrics.jsonl``; None keeps neither.
        device: Where to train; the source may live elsewhere.
        progress: Show a bar; None: where standard error is a terminal.
        stopped: Asked behind every step; True, of one process or more, ends the training with a checkpoint, and None is
            returned.

    Raises:
        BadConfig: options that do not fit the points, or a checkpoint of another training.
        InputError: a source that does not give what it promises.
    """
    team = Team.launched()
    learner = learner_of(options, source, config.seed).to(device)
    share = (team.rank, team.size)
    mixer = Mixer(source, max(config.batch // team.size, 1), config.mix_tokens // team.size, config.seed, share)
    trainer = Trainer(learner, config, source.widths, team=team)
    folder = None if out is None else Path(out)
    recipe = {
        "options": options.written(),
        "config": config.written(),
        "points": list(source.points),
        "source": source.describe(),
        "processes": team.size,
    }
    before = 0.0 if folder is None else load_checkpoint(folder, trainer, recipe)
    if not trainer.done:
        prepare(trainer, source)
    running = Running(trainer, mixer, MetricLines(folder if team.first else None, trainer.done), before)

    def save() -> None:
        if folder is not None and team.first:
            save_checkpoint(folder, trainer, recipe, running.seconds)
        team.wait()  # whoever goes on from it finds it

    with Display(config.steps, trainer.done, progress if team.first else False) as display:
        while trainer.done < config.steps:
            running.step(display)
            if team.any(stopped(), device):
                save()
                return None
            if config.checkpoint_every and trainer.done % config.checkpoint_every == 0:
                save()
    save()
    learner.fold(trainer.scale.factors)
    return dictionary_of(learner.cpu(), source.points, about_of(trainer, recipe, running.seconds))


def prepare(trainer: Trainer, source: Chunks) -> None:
    """Estimate norms and means on the first tokens, where the config asks for them."""
    config = trainer.config
    if config.normalise == "none" and not config.mean_start:
        return
    tokens = source.chunk(0, min(ESTIMATED, config.mix_tokens))
    factors = config.normalise == "expected_average_only_in"
    trainer.scale = Scale.estimated(tokens, source.widths, factors=factors)
    if config.mean_start:
        trainer.learner.start_at(trainer.scale.means)


@dataclass
class Running:
    """A training under way: what it writes, and how long it takes."""

    trainer: Trainer
    mixer: Mixer
    lines: MetricLines
    before: float
    began: float = field(default_factory=time.monotonic)
    marked: tuple[float, int] | None = None

    @property
    def seconds(self) -> float:
        """Seconds in all, those before an interruption included."""
        return self.before + time.monotonic() - self.began

    def step(self, display: Display) -> None:
        """One step; now and then its measures."""
        trainer = self.trainer
        if self.marked is None:
            self.marked = (time.monotonic(), trainer.done)
        step, parts = trainer.advance(self.mixer[trainer.done])
        display.step(trainer.done)
        if trainer.done % trainer.config.log_every and trainer.done < trainer.config.steps:
            return
        since, done = self.marked
        rate = (trainer.done - done) * trainer.config.batch / max(time.monotonic() - since, 1e-9)
        measured = {
            "step": trainer.done,
            "tokens": trainer.done * trainer.config.batch,
            **trainer.measures(step, parts),
            "tokens_per_second": round(rate),
            "seconds": round(self.seconds, 1),
        }
        self.lines.write(measured)
        display.measured(measured)
        self.marked = (time.monotonic(), trainer.done)


def about_of(trainer: Trainer, recipe: dict[str, Any], seconds: float) -> About:
    """What is known of a dictionary that was trained here."""
    frequency = trainer.fires / max(trainer.counted, 1)
    return About(
        format="mi_dictionaries",
        model=recipe["source"].get("model"),
        conventions=("trained on activations as they are at its points: scales are folded into the weights",),
        details={
            "training": recipe,
            "l0_in_training": float(frequency.sum()),
            "dead_features": int(trainer.dead.sum()),
            "seconds": round(seconds, 1),
        },
    )
