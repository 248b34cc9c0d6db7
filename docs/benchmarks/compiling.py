"""What does compiling bring? ``python docs/benchmarks/compiling.py [--layers 4] [--width 256] [--tokens 16]``.

A random LLaMA, float32 on the CPU (``--device cuda --dtype bfloat16`` on a GPU): a run with every residual captured and
one of them written, compiled against not compiled, in turn and in changing order, after the first call, which compiles.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch

import mi_core as mi


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 4), ("width", 256), ("tokens", 16), ("rounds", 15), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--mode", default="default", help="reduce-overhead replays CUDA graphs")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    sizes = {"n_layers": chosen.layers, "d_model": chosen.width, "d_mlp": 3 * chosen.width, "d_vocab": 1000}
    model = mi.build("llama", **sizes, trainable=False, device=chosen.device, dtype=chosen.dtype)
    written = mi.intervene("blocks.1.hook_resid_post", mi.Add(torch.ones(chosen.width) * 0.1).at(pos=-1))
    spec = mi.capture("blocks.*.hook_resid_post") + written
    compiled = model.compile(spec, logits="last", strict=True, mode=chosen.mode)
    x = torch.randint(1000, (1, chosen.tokens))
    ways: dict[str, Callable[[], object]] = {
        "as it is": lambda: model.run(x, spec, logits="last").last_logits.sum().item(),
        "compiled": lambda: compiled(x).last_logits.sum().item(),
    }
    began = time.perf_counter()
    ways["compiled"]()
    print(f"{compiled.explain()}; compiled in {time.perf_counter() - began:.0f} s")
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(chosen.rounds):
        for name in random.sample(list(ways), 2):
            began = time.perf_counter()
            for _ in range(20):
                ways[name]()
            times[name].append((time.perf_counter() - began) / 20)
    ratios = [one / two for one, two in zip(times["compiled"], times["as it is"], strict=True)]
    for name, found in times.items():
        print(f"{name:10} {1e3 * statistics.median(found):8.2f} ms")
    print(f"compiled / as it is: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
