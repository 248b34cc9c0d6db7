"""What does a grid of estimates cost? ``python docs/benchmarks/attribution.py [--shape small|1b|8b] [--json FILE]``.

Random weights. Each figure is the time of a whole attribution grid (both prompts' runs, the gradient, the products, the
result with its bootstrap) in units of one forward pass of the model with the logits of its last position; both are
measured in turn, in changing order, in processor time on a CPU with one thread, so that the load of other processes
does not count.

- ``stream``: layer x position of ``hook_resid_pre``.
- ``heads``: layer x position x head of ``hook_z``.
- ``MLPs``: layer x position of ``hook_mlp_out``.
- ``neurons``: layer x position x neuron of ``mlp.hook_post``.
- ``edges``: all scores of edge attribution.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sweeps import BASE, METRIC, SHAPES

import mi_core as mi
from mi_analyses import attribution_patching, edge_attribution

GRIDS: dict[str, dict[str, Any]] = {
    "stream": {"site": "hook_resid_pre", "each": ("layer", "pos")},
    "heads": {"site": "attn.hook_z", "each": ("layer", "pos", "head")},
    "MLPs": {"site": "hook_mlp_out", "each": ("layer", "pos")},
    "neurons": {"site": "mlp.hook_post", "each": ("layer", "pos", "d_mlp")},
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    config = {**BASE, **SHAPES[chosen.shape]}
    model = mi.build(config, trainable=False, device=chosen.device, dtype=chosen.dtype)
    rows = []
    for tokens in chosen.tokens:
        draw = torch.Generator().manual_seed(0)
        clean, corrupt = torch.randint(0, model.shape.d_vocab, (2, 1, tokens), generator=draw)

        def once(clean: torch.Tensor = clean) -> None:
            model.run(clean, logits="last")

        for name, options in GRIDS.items():

            def grid(
                clean: torch.Tensor = clean, corrupt: torch.Tensor = corrupt, options: dict[str, Any] = options
            ) -> None:
                attribution_patching(model, clean, corrupt, METRIC, **options)

            rows.append(measured(f"{name}, {tokens} tokens", grid, once, chosen.rounds, chosen.device))

        def edges(clean: torch.Tensor = clean, corrupt: torch.Tensor = corrupt) -> None:
            edge_attribution(model, clean, corrupt, METRIC)

        rows.append(measured(f"edges, {tokens} tokens", edges, once, chosen.rounds, chosen.device))
    if chosen.json:
        about = {"torch": torch.__version__, "device": chosen.device, "dtype": chosen.dtype, "shape": chosen.shape}
        chosen.json.write_text(json.dumps({**about, "rows": rows}, indent=1), encoding="utf-8")


def seconds(function: Callable[[], None], device: str) -> float:
    """Processor time of one call; on an accelerator, time."""
    if device == "cpu":
        began = time.process_time()
        function()
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def measured(name: str, grid: Callable[[], None], once: Callable[[], None], rounds: int, device: str) -> dict[str, Any]:
    """How many forward passes the grid takes."""
    grid()
    once()
    ratios = []
    for turn in range(rounds):
        order = (grid, once) if turn % 2 else (once, grid)
        taken = {function: seconds(function, device) for function in order}
        ratios.append(taken[grid] / taken[once])
    middle = statistics.median(ratios)
    print(f"{name:24} {middle:6.2f} forward passes ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)
    return {"name": name, "forward_passes": middle, "range": [min(ratios), max(ratios)]}


if __name__ == "__main__":
    main()
