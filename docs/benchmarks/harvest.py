"""What does harvesting cost, and does it survive kills? ``python docs/benchmarks/harvest.py [--rounds 3]``.

- ``rate``: a random LLaMA of about 90 million float32 parameters (12 layers, width 768) harvests documents of 16 to 256
  random tokens on one CPU thread: tokens per second of processor time and of wall time, over those of the bare blocks
  on the same batches, which nobody reads and nobody stores. Both alternate within one process; median and range.
- ``kills``: tiny-world harvests a corpus in processes of their own, each killed with SIGKILL at a random moment and
  followed by another that goes on, 20 in all; every file must then be that of a harvest that nothing stopped.
- ``reading``: shuffled batches of one point, read from the page cache.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from forward import CONFIG

import mi_core as mi
from mi_core.calling import row_chunks
from mi_core.harvests.collecting import padding_in
from mi_core.loop import Taps, forward

POINTS = {
    "one residual of twelve": "blocks.11.hook_resid_post",
    "every residual": "blocks.*.hook_resid_post",
    "every residual as bfloat16": "blocks.*.hook_resid_post",
    "every layer's residual of the last token": "blocks.*.hook_resid_post",
}
OPTIONS: dict[str, dict[str, Any]] = {
    "every residual as bfloat16": {"dtype": "bfloat16"},
    "every layer's residual of the last token": {"pos": -1},
}
BATCH = 2048
AIM = 0.9


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--no-rates", action="store_true", help="leave the rates out")
    parser.add_argument("--folder", type=Path, help="where to write; by default a temporary folder")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--killed", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.killed is not None:
        print("ready", flush=True)
        small_harvest(chosen.killed)
        return
    with tempfile.TemporaryDirectory(dir=chosen.folder) as scratch:
        figures = {
            "rate": {} if chosen.no_rates else rates(Path(scratch), chosen.documents, chosen.rounds),
            "kills": kills(Path(scratch), chosen.kills),
            "reading": reading(Path(scratch)),
        }
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def rates(scratch: Path, documents: int, rounds: int) -> dict[str, Any]:
    """The rates of harvests over that of the bare blocks."""
    model = mi.build(CONFIG, seed=0, trainable=False, device="cpu")
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(16, 257, (documents,), generator=draw).tolist()
    data = [torch.randint(0, CONFIG["vocab_size"], (length,), generator=draw).tolist() for length in lengths]  # type: ignore[call-overload]
    chunks = row_chunks(torch.tensor(lengths), BATCH, padding_in(BATCH))
    plans = [model.plan([data[row] for row in rows.tolist()]) for rows in chunks]

    def bare() -> None:
        with torch.no_grad():
            for plan in plans:
                forward(model.backend, plan.layout.batch(model.device), Taps({}), logits=None, last_layer=11)

    found: dict[str, Any] = {}
    print(f"{'of the bare rate':42s}  {'processor time':>22s}  {'wall time':>22s}   ({sum(lengths)} tokens, aim {AIM})")
    for name, points in POINTS.items():
        pairs: list[tuple[float, float]] = []
        for number in range(rounds + 1):
            out = scratch / "rate"

            def harvest(out: Path = out, name: str = name, points: str = points) -> None:
                mi.harvest(model, data, points, out, batch_tokens=BATCH, progress=False, **OPTIONS.get(name, {}))

            sides = (bare, harvest) if number % 2 else (harvest, bare)
            times = {side: timed(side) for side in sides}
            shutil.rmtree(out)
            if number:  # the first round warms up
                pairs.append((times[bare][0] / times[harvest][0], times[bare][1] / times[harvest][1]))
        found[name] = {"processor": [pair[0] for pair in pairs], "wall": [pair[1] for pair in pairs]}
        print(f"{name:42s}  {spread(found[name]['processor']):>22s}  {spread(found[name]['wall']):>22s}")
    return found


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Processor and wall time of some work."""
    processor, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - processor, time.perf_counter() - wall


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def small_harvest(out: Path) -> mi.Harvest:
    """The harvest that is killed."""
    draw = random.Random(0)
    facts = ("The capital of France is Paris.", "Rome is in Italy.", "People in Spain speak Spanish.")
    data = [" ".join(draw.choices(facts, k=draw.randint(1, 40))) for _ in range(400)]
    return mi.harvest(mi.load("tiny-world", device="cpu"), data, "blocks.*.hook_resid_post", out, shard_rows=1000)


def kills(scratch: Path, wanted: int) -> dict[str, Any]:
    """Kill harvests at random moments; whether the end is that of one that nothing stopped."""
    whole, folder, draw = scratch / "whole", scratch / "killed", random.Random(1)
    began = time.perf_counter()
    small_harvest(whole)
    took, same = time.perf_counter() - began, True
    shards: list[int] = []
    while len(shards) < wanted:
        command = [sys.executable, __file__, "--killed", str(folder)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert child.stdout is not None
        child.stdout.readline()  # it has imported what it needs
        time.sleep(draw.uniform(0, took / 4))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        if child.returncode == -signal.SIGKILL:
            shards.append(len(list(folder.glob("shard-*"))))
        else:  # it was faster: from the start once more
            same = same and equal(whole, folder)
            shutil.rmtree(folder)
    small_harvest(folder)
    same = same and equal(whole, folder)
    total = len(list(whole.glob("shard-*")))
    print(f"killed {len(shards)} times, with {shards} of {total} shards there; byte-identical: {same}")
    return {"killed": len(shards), "shards": shards, "of": total, "same": same}


def equal(one: Path, other: Path) -> bool:
    """Whether two folders have the same files, hidden ones apart."""
    contents = [
        {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}
        for folder in (one, other)
    ]
    return contents[0] == contents[1]


def reading(scratch: Path) -> dict[str, Any]:
    """Shuffled batches per second."""
    harvest = mi.Harvest(scratch / "whole")
    batches = harvest.batches("blocks.2.hook_resid_post", 4096, seed=0)
    rows, seconds = 0, 0.0
    for epoch in range(4):
        batches.set_epoch(epoch)
        began = time.process_time()
        read = sum(len(batch) for batch in batches)
        if epoch:
            rows, seconds = rows + read, seconds + time.process_time() - began
    size = 4 * harvest["blocks.2.hook_resid_post"].shape[-1]
    print(
        f"shuffled batches of 4096 x {size // 4}: {rows / seconds:,.0f} rows/s, {rows * size / seconds / 1e9:.2f} GB/s"
    )
    return {"rows_per_second": rows / seconds, "bytes_per_second": rows * size / seconds}


if __name__ == "__main__":
    main()
