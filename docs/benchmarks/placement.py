"""What does a model cost that does not fit? ``python docs/benchmarks/placement.py [--gigabytes 1.2] [--rounds 3]``.

Writes a sharded LLaMA of random float32 weights and runs it whole and split over memory and disk, ``max_memory`` a
third of its weights, each in a process of its own, one thread, warm page cache. Prints

- for each phase, how far the resident memory of the process (mapped pages of the checkpoint included) rose above what
  it was behind the imports, as a share of the limit, and whether the results are those of the whole model;
- for a sweep of 64 ablations on 16 tokens, of one position each, and the same 64 runs one after another on the split
  model, processor seconds and seconds of the clock in alternating rounds, and how often each layer came from disk;
- for a forward pass on 128 tokens, the same with and without the next layer on its way while one computes, in
  alternating rounds: with the checkpoint in the page cache, and with its files dropped from it before each pass
  (``posix_fadvise``, which works where the temporary folder is on a disk).

``--device cuda`` splits over ``cuda:0``, memory and disk, a third each; shares of ``cuda:0`` are of what it allocates.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

IDS = list(range(100, 116))
SIZES = (1024, 2816, 8000)
"""Width, MLP, vocabulary: layers of 50 MB."""
TOKENS = 128
PHASES = ("load", "forward", "sweep", "generation", "gradient")


def main() -> None:
    """Measure in fresh processes and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--folder", help="Where the checkpoint is written for the time; else the temporary folder.")
    parser.add_argument("--inside", nargs=3, metavar=("WHAT", "FOLDER", "LIMITS"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        what, folder, limits = asked.inside
        measure = {"speed": speed, "ahead": ahead}.get(what)
        found = (
            work(what, folder, json.loads(limits)) if measure is None else measure(folder, json.loads(limits), asked)
        )
        print(json.dumps(found))
        return
    from loading import write

    with tempfile.TemporaryDirectory(dir=asked.folder) as temporary:
        folder = Path(temporary)
        weights = write(folder, asked.gigabytes, SIZES)
        os.sync()  # what is not on disk yet cannot be dropped from the page cache
        limits = dict.fromkeys(["cpu"] if asked.device == "cpu" else ["cuda:0", "cpu"], weights // 3)
        split, whole = (inside(what, folder, limits, asked) for what in ("split", "whole"))
        print(f"{weights / 2**30:.2f} GiB of float32 weights, {split['on disk']:.2f} of them on disk; limit a third\n")
        print_phases(split, whole, limits)
        times = inside("speed", folder, limits, asked)
        passes = inside("ahead", folder, limits, asked)
    print("\n| 64 variants | processor seconds | seconds | layers brought in |\n|---|---|---|---|")
    for name in ("sweep", "one by one"):
        cells = (spread([row[kind] for row in times[name]]) for kind in ("processor", "clock"))
        print(f"| {name} | {' | '.join(cells)} | {times[name][0]['brought']} times each |")
    ratios = [
        slow["processor"] / fast["processor"] for slow, fast in zip(times["one by one"], times["sweep"], strict=True)
    ]
    print(f"\none by one / sweep, processor seconds within one round: {spread(ratios)}")
    print(f"\n| forward pass, {TOKENS} tokens | processor seconds | seconds |\n|---|---|---|")
    for name, rows in passes.items():
        print(f"| {name} | {' | '.join(spread([row[kind] for row in rows]) for kind in ('processor', 'clock'))} |")


def print_phases(split: dict[str, Any], whole: dict[str, Any], limits: dict[str, int]) -> None:
    """How much memory each phase took on each place, and whether its results are right."""
    print("| phase | place | rose to, of the limit | whole model | largest difference |\n|---|---|---|---|---|")
    for phase in PHASES:
        difference = f"{differing(split['results'].get(phase), whole['results'].get(phase)):.1e}"
        for place, limit in limits.items():
            rose, beside = (found["rose"][phase].get(place, 0) / limit for found in (split, whole))
            print(f"| {phase} | {place} | {rose:.2f} | {beside:.2f} | {difference if phase != 'load' else ''} |")


def inside(what: str, folder: Path, limits: dict[str, int], asked: argparse.Namespace) -> dict[str, Any]:
    """One fresh process."""
    own = ["--rounds", str(asked.rounds), "--device", asked.device, "--inside", what, str(folder), json.dumps(limits)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, *own], stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def imported(limits: dict[str, int]) -> Any:
    """The library, with what it loads when it is first used, on one thread."""
    import accelerate.utils.modeling
    import torch

    import mi_core as mi

    torch.set_num_threads(1)
    main = next(iter(limits))
    tiny = mi.load("tiny-world", device_map={"": "disk", "outside": main, "blocks.0": "cpu"})
    everything(tiny, lambda _: contextlib.nullcontext(), IDS[:4])
    return mi, accelerate


def placed(mi: Any, folder: str | Path, limits: dict[str, int]) -> Any:
    """The model, as much of it as fits in memory."""
    return mi.load(folder, device_map="auto", max_memory=limits)


def work(what: str, folder: str, limits: dict[str, int]) -> dict[str, Any]:
    """Everything that is done with the model, and the memory that it took."""
    mi, _ = imported(limits)
    memory = mi.MemoryReport()
    with memory.phase("load"):
        model = placed(mi, folder, limits) if what == "split" else mi.load(folder, device=next(iter(limits)))
    begin = memory["load"].before
    results = everything(model, memory.phase, IDS)
    units = getattr(model.backend, "offloaded", {})
    kept = {} if what == "whole" else model.backend.device_map.kept
    named = {"cpu": "host"}
    return {
        "rose": {
            phase.name: {
                place: phase.peak[named.get(place, place)] - begin.get(named.get(place, place), 0) for place in limits
            }
            for phase in memory.phases
        },
        "results": results,
        "on disk": sum(unit.bytes for name, unit in units.items() if kept[name] == "disk") / 2**30,
    }


def everything(model: Any, phase: Any, ids: list[int]) -> dict[str, list[float]]:
    """A forward pass, a sweep, a generation and a gradient: some numbers of each."""
    import mi_core as mi

    found: dict[str, Any] = {}
    with phase("forward"):
        found["forward"] = model.run(ids).last_logits[0, :64]
    with phase("sweep"):
        found["sweep"] = model.sweep(ids, grid(mi), metric(mi)).values.flatten()
    with phase("generation"):
        found["generation"] = model.generate(ids, max_new_tokens=3).tokens[0].float()
    with phase("gradient"):
        run = model.run(ids, mi.capture("blocks.0.hook_resid_post"), grad=True)
        (gradient,) = run.grad(lambda logits: logits[:, 7], "blocks.0.hook_resid_post").values()
        found["gradient"] = gradient.flatten()[:64]
    return {name: values.tolist() for name, values in found.items()}


def grid(mi: Any) -> Any:
    """One layer and one of the last positions set to zero."""
    return mi.ablation_grid("blocks.*.hook_attn_out", each={"layer": range(4), "pos": [-1, -2]})


def metric(mi: Any) -> Any:
    """The logit of a token."""
    return mi.metric(lambda logits: logits[:, 7], name="a logit")


def speed(folder: str, limits: dict[str, int], asked: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """A sweep, and the same runs one after another."""
    mi, _ = imported(limits)
    model = placed(mi, folder, limits)
    lent = next(unit for name, unit in model.backend.offloaded.items() if name.startswith("blocks."))
    layers = model.shape.n_layers
    cells = [
        mi.intervene(f"blocks.{cell % layers}.hook_attn_out", mi.Zero().at(pos=-1 - cell // layers % 4))
        for cell in range(64)
    ]

    def one_by_one() -> None:
        for cell in cells:
            model.run(IDS, cell, logits="last")

    found: dict[str, list[dict[str, float]]] = {"sweep": [], "one by one": []}
    for name in ("sweep", "one by one") * asked.rounds:
        before = lent.brought
        took = timed(one_by_one if name == "one by one" else lambda: model.sweep(IDS, cells, metric(mi)))
        found[name].append(took | {"brought": lent.brought - before})
    return found


def ahead(folder: str, limits: dict[str, int], asked: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Forward passes with the next layer on its way, and without."""
    mi, _ = imported(limits)
    model = placed(mi, folder, limits)
    ids = [at % 1000 for at in range(TOKENS)]
    found: dict[str, list[dict[str, float]]] = {}
    model.run(ids, logits="last")
    for _ in range(asked.rounds):
        for cold in (False, True):
            for early in (False, True):
                model.backend.desk.courier.ahead = early
                if cold:
                    dropped(Path(folder))
                words = "the next layer on its way" if early else "each layer when it is called"
                name = f"{words}, {'read from disk' if cold else 'from the page cache'}"
                found.setdefault(name, []).append(timed(lambda: model.run(ids, logits="last").last_logits.cpu()))
    return found


def dropped(folder: Path) -> None:
    """Let the page cache forget the checkpoint, as far as nobody maps it."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(run: Callable[[], Any]) -> dict[str, float]:
    """Processor seconds, of all threads, and seconds of the clock."""
    before = (time.process_time(), time.perf_counter())
    run()
    after = (time.process_time(), time.perf_counter())
    return {key: end - begin for key, begin, end in zip(("processor", "clock"), before, after, strict=True)}


def differing(ours: list[float] | None, theirs: list[float] | None) -> float:
    """The largest difference of two results."""
    return max((abs(a - b) for a, b in zip(ours or [], theirs or [], strict=True)), default=0.0)


def spread(values: list[float]) -> str:
    """``median (least to most)``."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
