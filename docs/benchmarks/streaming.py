"""What does a long input cost? ``python docs/benchmarks/streaming.py [--tokens 10000 100000 1000000] [--json FILE]``.

A random RWKV-7 (2 layers, width 32, 256 tokens) reads random tokens with `model.stream` on one CPU thread, each length
in a process of its own.

- ``grew``: the peak of the process, over what it was after a first short stream. Ids, positions and losses of every
  token are a part of it.
- ``remembered``: bytes that the model goes on from at the end.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RANKS = {f"{name}_low_rank_dim": 8 for name in ("decay", "a", "v", "gate")}
CONFIG: dict[str, Any] = {"model_type": "rwkv7", "vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2}
CONFIG |= {"intermediate_size": 64, "head_dim": 16, **RANKS}
CHUNK = 4096


def main() -> None:
    """Measure each length in a fresh process and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one is not None:
        print(json.dumps(measured(chosen.one)))
        return
    rows = []
    print(f"{'tokens':>9}  {'grew':>8}  {'a token':>8}  {'remembered':>10}  {'processor':>9}")
    for tokens in chosen.tokens:
        done = subprocess.run([sys.executable, __file__, "--one", str(tokens)], capture_output=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        print(
            f"{tokens:9d}  {row['grew'] / 1e6:5.1f} MB  {row['grew'] / tokens:6.0f} B  {row['remembered']:8d} B  "
            f"{row['seconds']:7.1f} s"
        )
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def measured(tokens: int) -> dict[str, float]:
    """One length, in this process."""
    import torch

    import mi_core as mi

    torch.set_num_threads(1)
    model = mi.build(CONFIG, trainable=False, device="cpu")
    ids = torch.randint(256, (tokens,), generator=torch.Generator().manual_seed(0))
    model.stream(ids[:CHUNK], chunk=CHUNK)
    before, began = peak(), time.process_time()
    spec = mi.capture("blocks.*.hook_resid_post").at(pos=[0, -1])
    run = model.stream(ids, spec, chunk=CHUNK)
    return {
        "tokens": tokens,
        "grew": peak() - before,
        "remembered": run.memory().bytes,
        "seconds": time.process_time() - began,
        "loss": float(run.loss),
    }


def peak() -> int:
    """The most memory that this process ever held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
