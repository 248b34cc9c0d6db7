"""What does compiling bring? ``python docs/benchmarks/compiling.py [--layers 4] [--width 256] [--tokens 16]``.

Random models, float32 on the CPU (``--device cuda --dtype bfloat16`` on a GPU), compiled against not compiled, in turn
and in changing order, after the first calls, which compile:

- a run of a LLaMA with every residual captured and one of them written;
- generations by a LLaMA and an RWKV-7, plain and with one residual written and captured, greedy, one prompt.

``--processor`` counts seconds of the processor on one thread, not of the clock: for machines that do other work.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch

import mi_core as mi

RANKS = {f"{name}_low_rank_dim": rank for name, rank in {"decay": 32, "a": 32, "v": 16, "gate": 64}.items()}
MORE = {"rwkv7": {"head_dim": 64, **RANKS}}
"""What a family's config needs beside sizes."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"layers": 4, "width": 256, "vocab": 1000, "tokens": 16, "new": 64, "rounds": 15, "threads": 2}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--mode", default="default", help="reduce-overhead replays CUDA graphs")
    parser.add_argument("--only", choices=("runs", "generations"))
    parser.add_argument("--processor", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1 if chosen.processor else chosen.threads)
    if chosen.only != "generations":
        runs(chosen)
    if chosen.only != "runs":
        for family in ("llama", "rwkv7"):
            generations(chosen, family)


def runs(chosen: argparse.Namespace) -> None:
    """A run with captures and a write."""
    model = built(chosen, "llama")
    spec = mi.capture("blocks.*.hook_resid_post") + written(chosen, pos=-1)
    compiled = model.compile(spec, logits="last", strict=True, mode=chosen.mode)
    x = torch.randint(chosen.vocab, (1, chosen.tokens))
    began = time.perf_counter()
    compiled(x)
    print(f"{compiled.explain()}; compiled in {time.perf_counter() - began:.0f} s")
    ways = {
        "as it is": lambda: [model.run(x, spec, logits="last").last_logits.sum().item() for _ in range(20)],
        "compiled": lambda: [compiled(x).last_logits.sum().item() for _ in range(20)],
    }
    compared(chosen, ways, 20, "runs")


def generations(chosen: argparse.Namespace, family: str) -> None:
    """New tokens behind one prompt."""
    model = built(chosen, family)
    x = torch.randint(chosen.vocab, (1, chosen.tokens))
    steered = written(chosen, pos=slice(-1, None)) + mi.capture("blocks.2.hook_resid_post")
    for name, spec in {"plain": mi.HookSpec(), "steered and captured": steered}.items():
        compiled = model.compile(spec, strict=True, mode=chosen.mode)
        asked = {"max_new_tokens": chosen.new, "stop_at_eos": False}
        print(f"\n{family}, {name}")
        began = time.perf_counter()
        new = compiled.generate(x, **asked).new_tokens
        print(f"{compiled.explain()}; compiled in {time.perf_counter() - began:.0f} s")
        if new != model.generate(x, spec, **asked).new_tokens:
            if chosen.dtype == "float32":
                raise SystemExit("both ways must write the same tokens")
            print("the ways write other tokens: logits that differ by rounding")
        ways = {
            "as it is": lambda spec=spec, asked=asked: model.generate(x, spec, **asked),
            "compiled": lambda compiled=compiled, asked=asked: compiled.generate(x, **asked),
        }
        compared(chosen, ways, chosen.new, "tokens")


def built(chosen: argparse.Namespace, family: str) -> mi.Model:
    """A random model."""
    sizes = {"n_layers": chosen.layers, "d_model": chosen.width, "d_mlp": 3 * chosen.width, "d_vocab": chosen.vocab}
    return mi.build(family, **sizes, **MORE.get(family, {}), trainable=False, device=chosen.device, dtype=chosen.dtype)


def written(chosen: argparse.Namespace, **where: object) -> mi.HookSpec:
    """A vector added to a residual stream."""
    return mi.intervene("blocks.1.hook_resid_post", mi.Add(torch.ones(chosen.width) * 0.1).at(**where))


def compared(chosen: argparse.Namespace, ways: dict[str, Callable[[], object]], times: int, what: str) -> None:
    """Print what both ways reach, and the ratio of their times."""
    clock = time.process_time if chosen.processor else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(chosen.rounds):
        for name in random.sample(list(ways), 2):
            began = clock()
            ways[name]()
            seconds[name].append((clock() - began) / times)
    for name, found in seconds.items():
        print(
            f"{name:10} {1e3 * statistics.median(found):8.2f} ms, {1 / statistics.median(found):7.0f} {what} a second"
        )
    ratios = [one / two for one, two in zip(seconds["compiled"], seconds["as it is"], strict=True)]
    print(f"compiled / as it is: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
