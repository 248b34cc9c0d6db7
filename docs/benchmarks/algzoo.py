"""How fast is a forward pass of a tiny network? ``python docs/benchmarks/algzoo.py [--rounds 15]``.

A network of 16 units over 10 numbers (432 parameters), float32, on 1, 1,000 and 100,000 inputs, in turn and in changing
order: `RNNWeights` (no hooks), ``model.run`` (every point there), and torch's own ``nn.RNN`` with ``nn.Linear``.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import mi_core as mi
from mi_algzoo.weights import RNNWeights

UNITS, NUMBERS = 16, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    config = {"model_type": "algzoo_rnn", "hidden_size": UNITS, "seq_len": NUMBERS}
    model = mi.build(config, trainable=False, device="cpu")
    weights = RNNWeights.of(model).to(torch.float32)
    rnn = nn.RNN(1, UNITS, nonlinearity="relu", bias=False, batch_first=True).requires_grad_(False)
    readout = nn.Linear(UNITS, NUMBERS, bias=False).requires_grad_(False)
    for parameter, value in zip((*rnn.parameters(), *readout.parameters()), model.backend.parameters(), strict=True):
        parameter.copy_(value)
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "torch": lambda x: readout(rnn(x[..., None])[1][0]),
        "weights": weights,
        "model.run": lambda x: model.run(x, logits="last").last_logits,
    }
    for rows in (1, 1_000, 100_000):
        x = torch.randn(rows, NUMBERS)
        for way in ways.values():
            torch.testing.assert_close(way(x), ways["torch"](x), rtol=1e-4, atol=1e-5)
        times = measured(ways, x, chosen.rounds)
        own = statistics.median(times["torch"])
        for name, found in times.items():
            ratios = [one / other for one, other in zip(found, times["torch"], strict=True)]
            print(
                f"{rows:7,} inputs  {name:10} {1e3 * own * statistics.median(ratios):9.3f} ms  "
                f"{statistics.median(ratios):5.2f} of torch's"
            )


def measured(ways: dict[str, Callable[[Tensor], Tensor]], x: Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, in changing order."""
    repeats = max(1, 20_000 // len(x))
    times: dict[str, list[float]] = {name: [] for name in ways}
    with torch.no_grad():
        for _ in range(rounds):
            for name in random.sample(list(ways), len(ways)):
                began = time.perf_counter()
                for _ in range(min(repeats, 200)):
                    ways[name](x)
                times[name].append((time.perf_counter() - began) / min(repeats, 200))
    return times


if __name__ == "__main__":
    main()
