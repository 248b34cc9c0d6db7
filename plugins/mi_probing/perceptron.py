"""A small multilayer perceptron: the control that asks whether a label is there but not linearly so."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mi_probing.standardising import Standardised
from mi_probing.tasks import Tasks

__all__ = ["Perceptron", "fit_perceptron"]


@dataclass(frozen=True, eq=False)
class Perceptron:
    """One hidden layer of rectified units for every cell and task, on each task's standardised activations."""

    into: Float[Tensor, "cell task d hidden"]
    into_bias: Float[Tensor, "cell task 1 hidden"]
    out: Float[Tensor, "cell task hidden output"]
    out_bias: Float[Tensor, "cell task 1 output"]
    mean: Float[Tensor, "cell task 1 d"]
    scale: Float[Tensor, "cell task 1 d"]

    def outputs(self, x: Float[Tensor, "cell example d"]) -> Float[Tensor, "cell task example output"]:
        """Logits, or predictions of a regression."""
        z = (x.to(self.into)[:, None] - self.mean) / self.scale
        return (z @ self.into + self.into_bias).relu() @ self.out + self.out_bias


def fit_perceptron(
    x: Float[Tensor, "cell example d"],
    tasks: Tasks,
    *,
    hidden: int = 32,
    steps: int = 300,
    learning_rate: float = 1e-2,
    seed: int = 0,
) -> Perceptron:
    """All cells and tasks at once, by Adam on all examples; the penalty is that of `fit_logistic`."""
    tasks = tasks.to(x)
    data = Standardised.of(x, tasks)
    share = tasks.weights / tasks.weights.sum(1, keepdim=True)
    ridge = (tasks.penalty / tasks.weights.sum(1)).expand(len(x), -1)
    targets = tasks.targets().transpose(1, 2)
    mean = (data.mean * data.shared_scale + data.shared_mean)[:, :, None]
    scale = (data.scale * data.shared_scale)[:, :, None]
    generator = torch.Generator().manual_seed(seed)
    d = x.shape[-1]

    def drawn(rows: int, columns: int) -> Tensor:
        made: Tensor = torch.randn(rows, columns, generator=generator) * (2 / rows) ** 0.5
        return made.to(x).expand(len(x), len(tasks), rows, columns).clone().requires_grad_()

    into, out = drawn(d, hidden), drawn(hidden, tasks.outputs)
    biases = [x.new_zeros(len(x), len(tasks), 1, size).requires_grad_() for size in (hidden, tasks.outputs)]
    found = Perceptron(into, biases[0], out, biases[1], mean, scale)
    optimiser = torch.optim.Adam([into, out, *biases], lr=learning_rate)
    with torch.enable_grad():
        for _ in range(steps):
            optimiser.zero_grad()
            loss = (share[..., None] * errors(found.outputs(x), targets, tasks.classes)).sum((2, 3))
            squares = into.square().sum((2, 3)) + out.square().sum((2, 3))
            (loss + ridge / 2 * squares).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return Perceptron(into.detach(), biases[0].detach(), out.detach(), biases[1].detach(), mean, scale)


def errors(
    outputs: Float[Tensor, "cell task example output"], targets: Float[Tensor, "task example output"], classes: int
) -> Tensor:
    """Squared errors of a regression; else cross entropies in nats, in one column."""
    if classes == 0:
        return (outputs - targets) ** 2
    if classes == 2:
        return torch.nn.functional.softplus(outputs) - targets * outputs
    return -(outputs.log_softmax(-1) * targets).sum(-1, keepdim=True)
