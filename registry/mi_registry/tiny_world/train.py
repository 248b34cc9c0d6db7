"""How is tiny-world made? ``python -m mi_registry.tiny_world.train`` makes it again, from a seed.

Everything goes to ``--out``: the model as a checkpoint that `mi_core.load` reads, ``training.json`` with the figures,
and the registry page. The batches, the start and the learning rate are functions of seed and step, so a training that
was stopped (Ctrl-C) goes on with the same command, and reaches the same weights on the same machine.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

import mi_core as mi
from mi_registry.tiny_world import evaluate, page, tokenizer
from mi_registry.tiny_world.checkpoint import Spent, load_checkpoint, save_checkpoint
from mi_registry.tiny_world.rows import Rows, Vocabulary, batch

__all__ = ["Recipe", "loss_of", "main", "train"]


@dataclass(frozen=True)
class Recipe:
    """Every choice of a training besides the model's config."""

    seed: int = 0
    steps: int = 2400
    rows: int = 48
    columns: int = 64
    long_every: int = 4
    """Each such batch has half the rows at twice the length."""
    learning_rate: float = 1.5e-3
    warmup: int = 100
    floor: float = 0.02
    weight_decay: float = 0.2
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    threads: int = 1

    def shape(self, step: int) -> tuple[int, int]:
        """Rows and columns of a step's batch."""
        return (self.rows // 2, self.columns * 2) if step % self.long_every == 0 else (self.rows, self.columns)

    def rate(self, step: int) -> float:
        """The learning rate of a step: linear warm-up, then a cosine down to ``floor`` of the highest."""
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * min(1.0, (step + 1) / self.warmup) * (self.floor + (1 - self.floor) * cosine)


def shipped_config() -> dict[str, Any]:
    """The config of the shipped model."""
    config: dict[str, Any] = json.loads((files("mi_registry") / "tiny_world" / "config.json").read_text())
    return config


def loss_of(model: mi.Model, rows: Rows) -> Tensor:
    """Mean cross-entropy in nats of the next token, weighted."""
    logits = model.run(rows.ids.to(model.device), grad=True).logits[:, :-1]
    targets, weights = rows.ids[:, 1:].to(logits.device), rows.weights.to(logits.device)
    losses = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return (losses * weights.flatten()).sum() / weights.sum()


def optimizer_of(model: mi.Model, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; gains, biases and mixes, in whatever shape a family keeps them, do not decay."""
    parameters = list(module_of(model).parameters())
    groups = [
        {"params": [p for p in parameters if p.squeeze().ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.squeeze().ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas)


def module_of(model: mi.Model) -> nn.Module:
    """The backend as the module whose parameters are trained."""
    assert isinstance(model.backend, nn.Module)  # every backend that mi.build makes is one
    return model.backend


def train(
    model: mi.Model,
    words: Tokenizer,
    recipe: Recipe,
    out: Path,
    stopped: Callable[[], bool] = lambda: False,
    every: int = 250,
) -> Spent | None:
    """Train ``model`` in place, from the checkpoint in ``out`` if there is one.

    Returns what it took in all, or None where ``stopped`` ended it; a checkpoint is kept either way.
    """
    vocabulary = Vocabulary.of(words)
    optimizer = optimizer_of(model, recipe)
    first, before = load_checkpoint(out, module_of(model), optimizer, asdict(recipe))
    # as if it had begun before this process did
    start = Spent.now().since(before)
    begun = time.monotonic()
    for step in range(first, recipe.steps):
        shape = recipe.shape(step)
        rows = batch(step, seed=recipe.seed, tokenizer=words, vocabulary=vocabulary, shape=shape)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        loss = loss_of(model, rows)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module_of(model).parameters(), recipe.clip)
        optimizer.step()
        show(step + 1, recipe, loss.detach(), rate=(step + 1 - first) / (time.monotonic() - begun))
        stop = stopped()
        if (step + 1) % every == 0 or step + 1 == recipe.steps or stop:
            save_checkpoint(out, module_of(model), optimizer, asdict(recipe), step + 1, Spent.now().since(start))
        if stop and step + 1 < recipe.steps:
            return None
    return Spent.now().since(start)


def show(step: int, recipe: Recipe, loss: Tensor, rate: float) -> None:
    """One line of progress: rewritten on a terminal, every 100 steps elsewhere."""
    live = sys.stderr.isatty()
    if live or step % 100 == 0 or step == recipe.steps:
        left = (recipe.steps - step) / rate
        tokens = rate * recipe.rows * recipe.columns
        line = (
            f"step {step}/{recipe.steps}  loss {float(loss):.3f} nats  {tokens:,.0f} tokens/s  {left / 60:.1f} min left"
        )
        end = "\r" if live and step < recipe.steps else "\n"
        print(line.ljust(80), end=end, file=sys.stderr, flush=True)


class Interrupt:
    """The first Ctrl-C ends the training behind the current step, the second at once."""

    def __init__(self) -> None:
        self.seen = False
        signal.signal(signal.SIGINT, self.note)

    def note(self, *_: object) -> None:
        """Called by Python when Ctrl-C was pressed."""
        self.seen = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __call__(self) -> bool:
        return self.seen


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train tiny-world from scratch; the same command resumes.")
    parser.add_argument("--out", type=Path, default=Path("tiny-world-run"), help="folder for everything it makes")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--learning-rate", type=float, default=Recipe.learning_rate, help="the highest")
    parser.add_argument("--threads", type=int, default=Recipe.threads, help="CPU threads")
    parser.add_argument("--device", default="cpu", help="where to train; the shipped model was trained on a CPU")
    parser.add_argument("--config", type=Path, help="another model's config.json, trained on the same world")
    parser.add_argument("--finish", action="store_true", help="write the checkpoint's model as it is, and its page")
    return parser.parse_args()


def main() -> None:
    """Train, evaluate, and write the model with its page."""
    asked = arguments()
    recipe = Recipe(seed=asked.seed, steps=asked.steps, learning_rate=asked.learning_rate, threads=asked.threads)
    torch.set_num_threads(recipe.threads)
    config = json.loads(asked.config.read_text()) if asked.config else shipped_config()
    asked.out.mkdir(parents=True, exist_ok=True)
    words = tokenizer.make()
    model = mi.build(config, seed=recipe.seed, trainable=True, device=asked.device)
    tokenizer.save(words, asked.out, model.shape.n_ctx)
    made_by = {**asdict(recipe), "device": asked.device}
    if asked.finish:
        optimizer = optimizer_of(model, recipe)
        made_by["steps_done"], spent = load_checkpoint(asked.out, module_of(model), optimizer, asdict(recipe))
    else:
        ended = train(model, words, recipe, asked.out, Interrupt())
        if ended is None:
            print(f"Stopped. The same command goes on from the checkpoint in {asked.out}.", file=sys.stderr)
            raise SystemExit(130)
        spent = ended
    mi.save_model(model, asked.out)
    found = evaluate.scores(mi.load(str(asked.out.resolve())))
    print(evaluate.report(found))
    figures = page.figures(asked.out, made_by, spent, found)
    (asked.out / "training.json").write_text(json.dumps(figures, indent=2) + "\n")
    (asked.out / f"{page.name_of(figures['model'])}.toml").write_text(page.render([figures]))


if __name__ == "__main__":
    main()
