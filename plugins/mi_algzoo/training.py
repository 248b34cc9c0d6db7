"""Training networks of AlgZoo's shapes: many seeds side by side, the best one kept. Seconds to minutes on a CPU.

    python -m mi_algzoo.training second_argmax 4 3 OUT

writes a folder in the published layout, which ``mi.load`` reads.

Source: the shapes, tasks and loss are those of alg-zoo, Alignment Research Center; its own runs are far longer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import torch
import typer
from torch import Tensor
from torch.nn.functional import cross_entropy, embedding, linear

import mi_core as mi
from mi_algzoo.tasks import Task, task_of

__all__ = ["train"]

Weights: TypeAlias = dict[str, Tensor]
"""Checkpoint name -> tensor; with a first dim for the seeds where several are trained together."""
LAYERS = 2


def train(
    task: str,
    hidden: int,
    n: int,
    folder: str | Path,
    *,
    seeds: int = 16,
    steps: int = 6000,
    batch: int = 512,
    learning_rate: float = 1e-2,
    seed: int = 0,
    progress: Callable[[int, float], object] | None = None,
) -> mi.Model:
    """Train a network for a task, write it to ``folder`` and load it.

    Args:
        task: its name; `mi_algzoo.tasks` lists them.
        hidden: units of the recurrent network, width of the transformer.
        n: how many numbers it reads.
        folder: where to write it; made if it is not there.
        seeds: networks that are trained side by side; the one of the least loss on fresh inputs is kept.
        steps: of Adam, with one cycle of the learning rate.
        batch: inputs in each step.
        learning_rate: at its highest.
        seed: of everything that is drawn.
        progress: called with each hundredth step and the least loss of it.

    Raises:
        InputError: no such task, or a length for which it means nothing.
    """
    kind = task_of(task)
    kind.check(n)
    draw = torch.Generator().manual_seed(seed)
    network, weights, config = begun(kind, hidden, n, seeds, draw)
    leaves = [tensor.requires_grad_() for tensor in weights.values()]
    adam = torch.optim.Adam(leaves, learning_rate)
    cycle = torch.optim.lr_scheduler.OneCycleLR(adam, learning_rate, total_steps=steps)
    losses = torch.func.vmap(lambda own, x, y: loss_of(kind, network(own, x), y), in_dims=(0, None, None))
    for step in range(steps):
        x = drawn(kind, batch, n, draw)
        loss = losses(weights, x, kind.label(x))
        for leaf, slope in zip(leaves, torch.autograd.grad(loss.sum(), leaves), strict=True):
            leaf.grad = slope
        adam.step()
        cycle.step()
        if progress is not None and step % 100 == 99:
            progress(step + 1, float(loss.detach().min()))
    with torch.no_grad():
        x = kind.domain(n) if kind.finite else drawn(kind, 100_000, n, draw)
        best = int(losses(weights, x, kind.label(x)).argmin())
    return written({name: tensor[best].detach() for name, tensor in weights.items()}, config, Path(folder))


def begun(
    task: Task, hidden: int, n: int, seeds: int, draw: torch.Generator
) -> tuple[Callable[[Weights, Tensor], Tensor], Weights, Mapping[str, Any]]:
    """The network of a task, its first weights, and its config."""
    network: Callable[[Weights, Tensor], Tensor]
    shapes: dict[str, tuple[int, ...]]
    if task.finite:
        shapes = {"embed.weight": (n, hidden), "pos_embed.weight": (n, hidden), "unembed.weight": (n, hidden)}
        for layer in range(LAYERS):
            shapes[f"attns.{layer}.in_proj_weight"] = (3 * hidden, hidden)
            shapes[f"attns.{layer}.out_proj.weight"] = (hidden, hidden)
        network, family = (
            transformer,
            {"model_type": "algzoo_transformer", "num_layers": LAYERS, "input_range": n, "task": task.name},
        )
    else:
        shapes = {"rnn.weight_ih_l0": (hidden, 1), "rnn.weight_hh_l0": (hidden, hidden)}
        shapes["linear.weight"] = (task.classes(n), hidden)
        network, family = recurrent, {"model_type": "algzoo_rnn", "task": task.name}
    weights = {
        name: torch.randn(seeds, *shape, generator=draw) * (0.7 / shape[-1] ** 0.5) for name, shape in shapes.items()
    }
    return network, weights, {**family, "hidden_size": hidden, "seq_len": n}


def recurrent(weights: Weights, x: Tensor) -> Tensor:
    """The recurrent network: ``[batch n] -> [batch out]``."""
    hidden = linear(x[:, :1], weights["rnn.weight_ih_l0"]).relu()
    for time in range(1, x.shape[1]):
        read = linear(x[:, time : time + 1], weights["rnn.weight_ih_l0"])
        hidden = (read + linear(hidden, weights["rnn.weight_hh_l0"])).relu()
    return linear(hidden, weights["linear.weight"])


def transformer(weights: Weights, ids: Tensor) -> Tensor:
    """The transformer, at its last position: ``[batch n] -> [batch out]``."""
    x = embedding(ids, weights["embed.weight"]) + weights["pos_embed.weight"][: ids.shape[1]]
    for layer in range(LAYERS):
        q, k, v = linear(x, weights[f"attns.{layer}.in_proj_weight"]).chunk(3, -1)
        pattern = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        x = x + linear(pattern @ v, weights[f"attns.{layer}.out_proj.weight"])
    return linear(x[:, -1], weights["unembed.weight"])


def loss_of(task: Task, out: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy, or the squared error of a number."""
    return (out[:, 0] - label).square().mean() if task.scalar else cross_entropy(out, label)


def drawn(task: Task, rows: int, n: int, draw: torch.Generator) -> Tensor:
    """Fresh inputs."""
    return torch.randint(n, (rows, n), generator=draw) if task.finite else torch.randn(rows, n, generator=draw)


def written(weights: Weights, config: Mapping[str, Any], folder: Path) -> mi.Model:
    """A checkpoint in the published layout, with a config beside it; loaded."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return mi.load(folder.resolve())


def main(
    task: Annotated[str, typer.Argument(help="second_argmax, argmedian, median or longest_cycle.")],
    hidden: Annotated[int, typer.Argument(help="Units, or the transformer's width.", min=1)],
    n: Annotated[int, typer.Argument(help="How many numbers it reads.", min=2)],
    folder: Annotated[Path, typer.Argument(help="Where to write it.")],
    steps: Annotated[int, typer.Option(help="Of Adam.", min=1)] = 6000,
    seeds: Annotated[int, typer.Option(help="Networks side by side.", min=1)] = 16,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
) -> None:
    """Train a network of AlgZoo's shapes."""
    train(
        task, hidden, n, folder, steps=steps, seeds=seeds, seed=seed, progress=lambda at, loss: print(at, f"{loss:.4f}")
    )


if __name__ == "__main__":
    typer.run(main)
