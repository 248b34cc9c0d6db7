"""What does it cost on a GPU? ``python docs/benchmarks/gpu.py [--shape 8b] [--gigabytes 4] [--json FILE]``.

All figures of one card with one command, each printed when it is there: rows of the table in docs/performance.md. The
weights are random, bfloat16, made on the device, and the same tensors in this library and in transformers. Both sides
of a ratio run in turn, in changing order, until the device is done: the median of the pairs and its middle half.

- ``forward``: a plain run against transformers (SDPA, no cache), captures against the plain run.
- ``decoding``: 32 tokens behind 16 with a cache, plain and steered, against transformers without steering.
- ``grid``: layer x position patching of 64 tokens, against a loop of hooked passes of transformers.
- ``files``: a float32 checkpoint of ``--gigabytes``, in the page cache: reading its files, loading it onto the device
  with both libraries, and split over the device, memory and disk, a third each, against the model that is whole.
- ``compiled``: decoding again, in graphs, against decoding as it is.

A part that fails says so and does not keep the others from running. ``--device cpu --shape tiny`` runs everything in
about a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from generation import NEW, PROMPT, own_of, reference_of, specs
from loading import write
from placement import IDS, differing, dropped, everything
from sweeps import BASE, METRIC, SHAPES, models, patched, timed
from torch import Tensor

import mi_core as mi

TINY = {**SHAPES["small"], "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2, "vocab_size": 512}
RESIDUALS = ["blocks.*.hook_resid_pre", "blocks.*.hook_resid_mid", "blocks.*.hook_resid_post"]
CAPTURES = {"every residual": (mi.capture(RESIDUALS), "1.05"), "every point": (mi.capture("*"), "")}
GRID = 64
"""Tokens of the patching grid."""


class Bench:
    """What is measured, and the rows so far."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.device = torch.device(asked.device)
        self.rows: list[dict[str, str]] = []
        self.config = {**BASE, **(TINY if asked.shape == "tiny" else SHAPES[asked.shape])}
        self.ours, self.theirs = models(self.config, self.device, getattr(torch, asked.dtype))

    def row(self, name: str, figure: str, more: str = "", aim: str = "") -> None:
        """Print a row now."""
        self.rows.append({"name": name, "figure": figure, "more": more, "aim": aim})
        print(f"| {name} | {figure} | {more} | {aim} |", flush=True)

    def seconds(self, function: Callable[[], Any]) -> float:
        """Of one call, to the end of what it asked the device for."""
        self.settled()
        return timed(function, self.device)[0]

    def settled(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def pairs(self, one: Callable[[], Any], other: Callable[[], Any]) -> tuple[str, float, float]:
        """The time of ``one`` in times of ``other``, and the median seconds of both."""
        for function in (one, other) * 2:  # kernels are chosen, memory is given, graphs are recorded
            self.seconds(function)
        taken: list[tuple[float, float]] = []
        for turn in range(self.asked.pairs):
            if turn % 2:
                second, first = self.seconds(other), self.seconds(one)
            else:
                first, second = self.seconds(one), self.seconds(other)
            taken.append((first, second))
        low, middle, high = statistics.quantiles([a / b for a, b in taken], n=4)
        return f"{middle:.3f} ({low:.3f} to {high:.3f})", *(
            statistics.median(side) for side in zip(*taken, strict=True)
        )

    def ids(self, batch: int, tokens: int, seed: int = 0) -> Tensor:
        """Random tokens, on the host."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(0, self.ours.shape.d_vocab, (batch, tokens), generator=generator)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--shape", choices=("tiny", *SHAPES), default="8b")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 1024], help="of a forward pass, in one row")
    parser.add_argument("--batch", type=int, default=8, help="rows of a forward pass of the fewest tokens, too")
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--gigabytes", type=float, help="of the checkpoint that is written for the time: 4, tiny 0.04")
    parser.add_argument("--folder", help="where it is written; else the temporary folder")
    parser.add_argument("--mode", default="reduce-overhead", help="of torch.compile; this one replays CUDA graphs")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path, help="also write the rows there, after each part")
    asked = parser.parse_args()
    asked.gigabytes = asked.gigabytes or (0.04 if asked.shape == "tiny" else 4.0)
    bench = Bench(asked)
    card = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else platform.machine()
    about = {"card": card, "torch": torch.__version__, "shape": asked.shape, "dtype": asked.dtype}
    print(", ".join(about.values()), "\n\n| | | | aim |\n|---|---|---|---|", flush=True)
    failed = []
    for name in asked.only:
        try:
            PARTS[name](bench)
        except Exception as error:  # the card may be there for minutes: the other parts still run
            failed.append(name)
            traceback.print_exc()
            bench.row(name, "failed", f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
        if asked.json:
            asked.json.write_text(json.dumps({**about, "rows": bench.rows}, indent=1), encoding="utf-8")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def forward(bench: Bench) -> None:
    """Plain runs against transformers, captures against plain runs."""
    shapes = [(1, tokens) for tokens in bench.asked.tokens] + [(bench.asked.batch, min(bench.asked.tokens))]
    for shape in shapes:
        ids = bench.ids(*shape)
        there = ids.to(bench.device)

        def reference(there: Tensor = there) -> Any:
            with torch.no_grad():
                return bench.theirs(there, use_cache=False)

        plain = partial(bench.ours.run, ids)
        where = f"{shape[0]} x {shape[1]} tokens"
        ratio, own, other = bench.pairs(plain, reference)
        bench.row(f"forward, {where}, against transformers", ratio, f"{own:.4f} s, {other:.4f} s", "1.02")
        for name, (spec, aim) in CAPTURES.items():
            ratio, own, other = bench.pairs(partial(bench.ours.run, ids, spec), plain)
            bench.row(f"{name}, {where}, against plain", ratio, f"{own:.4f} s, {other:.4f} s", aim)


def decoding(bench: Bench) -> None:
    """Plain and steered generations against transformers' plain ones."""
    ids = bench.ids(1, PROMPT)
    reference = reference_of(bench.theirs, ids.to(bench.device))
    ways = specs(bench.ours)
    for name in ("plain", "steered"):
        written = own_of(partial(bench.ours.generate, spec=ways[name]), ids)
        ratio, own, other = bench.pairs(written, reference)
        bench.row(f"decoding, {name}, against transformers", ratio, f"{NEW / own:.1f}, {NEW / other:.1f} tokens/s")
    same = own_of(bench.ours.generate, ids)() == reference()[:, PROMPT:].cpu()
    bench.row("tokens before the first that differs", str(int(same[0].cumprod(0).sum())), f"of {NEW}")


def grid(bench: Bench) -> None:
    """Patching each residual at each position, against a loop of passes with a hook."""
    ids, source = bench.ids(1, GRID), bench.ids(1, GRID, seed=1)
    run = bench.ours.run(source, mi.capture("blocks.*.hook_resid_pre"), logits="last")
    cells, values = mi.patch_grid("blocks.*.hook_resid_pre", source=run), run.stack("hook_resid_pre").to(bench.device)
    there = ids.to(bench.device)

    def swept() -> Tensor:
        return bench.ours.sweep(ids, cells, METRIC, progress=False).values[..., 0]

    swept()
    own, here = timed(swept, bench.device)
    patched(bench.theirs, there[:, :2], values[:, :, :2])
    other, reference = timed(partial(patched, bench.theirs, there, values), bench.device)
    difference = float((here.cpu() - reference).abs().max())
    more = f"{own:.3f} s, {other:.2f} s, largest difference {difference:.1e}"
    bench.row(f"grid {len(values)} x {GRID}, against the loop", f"{other / own:.2f} times faster", more)


def files(bench: Bench) -> None:
    """Loading a checkpoint whole, and split over three places."""
    from transformers import AutoModelForCausalLM

    sizes = (256, 704, 512) if bench.asked.shape == "tiny" else (2048, 5632, 32000)
    with tempfile.TemporaryDirectory(dir=bench.asked.folder) as temporary:
        folder = Path(temporary)
        size = write(folder, bench.asked.gigabytes, sizes)
        own, other = partial(mi.load, folder, device=str(bench.device)), AutoModelForCausalLM.from_pretrained
        os.sync()  # what is not on disk yet cannot be dropped from the page cache
        dropped(folder)
        taken = bench.seconds(partial(read, folder))
        name = f"{size / 2**30:.2f} GiB, its files, read from disk"
        bench.row(name, f"{taken:.2f} s", f"{size / 2**30 / taken:.2f} GiB/s")
        ways = {
            "its files, read": partial(read, folder),
            "loaded": own,
            "loaded by transformers": lambda: other(folder, device_map={"": str(bench.device)}, dtype=torch.float32),
        }
        for name, way in ways.items():
            way()
            taken = statistics.median(bench.seconds(way) for _ in range(3))
            bench.row(f"{size / 2**30:.2f} GiB, {name}", f"{taken:.2f} s", f"{size / 2**30 / taken:.2f} GiB/s")
        places = ["cpu"] if bench.device.type == "cpu" else [str(bench.device), "cpu"]
        split = mi.load(folder, device_map="auto", max_memory=dict.fromkeys(places, size // 3))
        compared(bench, split, own())


def read(folder: Path) -> None:
    """Read a checkpoint's files through one piece of memory."""
    piece = bytearray(1 << 24)
    for path in folder.glob("*.safetensors"):
        with path.open("rb", buffering=0) as file:
            while file.readinto(piece):
                pass


def compared(bench: Bench, split: mi.Model, whole: mi.Model) -> None:
    """What a split model costs in times of the whole one, and whether it gives the same."""
    taken: list[dict[str, float]] = []
    memory = mi.MemoryReport()

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        bench.settled()
        began = time.perf_counter()
        with memory.phase(name):
            yield
            bench.settled()
        taken[-1][name] = time.perf_counter() - began

    found = []
    for model in (split, whole) * 2:  # the second time counts
        taken.append({})
        found.append(everything(model, phase, IDS))
    for name in found[0]:
        here, there = taken[2][name], taken[3][name]
        difference = f"largest difference {differing(found[2][name], found[3][name]):.1e}"
        bench.row(f"split, {name}, against whole", f"{here / there:.1f}", f"{here:.3f} s, {there:.3f} s, {difference}")
    courier, ids = split.backend.desk.courier, [at % 500 for at in range(128)]  # type: ignore[attr-defined]
    rates = {}
    for early in (True, False):
        courier.ahead = early
        rates[early] = statistics.median(bench.seconds(lambda: split.run(ids, logits="last")) for _ in range(3))
    more = f"{rates[True]:.3f} s, {rates[False]:.3f} s"
    bench.row("split, weights ahead, against on demand", f"{rates[True] / rates[False]:.3f}", more)


def compiled(bench: Bench) -> None:
    """Decoding in graphs, against decoding as it is."""
    ids = bench.ids(1, PROMPT)
    ways = specs(bench.ours)
    for name in ("plain", "steered"):
        graphs = bench.ours.compile(ways[name], strict=True, mode=bench.asked.mode)
        written = own_of(graphs.generate, ids)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            first = bench.seconds(written)
        for warning in said:
            print(warning.message, file=sys.stderr)
        ratio, own, other = bench.pairs(written, own_of(partial(bench.ours.generate, spec=ways[name]), ids))
        more = f"{NEW / own:.1f}, {NEW / other:.1f} tokens/s, first call {first:.0f} s"
        bench.row(f"decoding, {name}, compiled, against as it is", ratio, more)


PARTS: dict[str, Callable[[Bench], None]] = {
    "forward": forward,
    "decoding": decoding,
    "grid": grid,
    "files": files,
    "compiled": compiled,
}

if __name__ == "__main__":
    main()
