"""How fast is a recurrent forward pass? ``python docs/benchmarks/recurrent.py [--tokens 512] [--json FILE]``.

Random RWKV-6 and RWKV-7 (``--versions``), 12 layers, width 768, heads of 64, float32, ranks of a few. The forward pass
in chunks against, in turn and in changing order:

- ``own steps``: our own step loop, one token at a time from the memory of those before;
- ``package, one call``: the package ``rwkv`` (0.8.32, where it is installed), all tokens in one call: its projections
  take all tokens at once, its recurrence goes step by step;
- ``package, steps``: the same package, one token at a time;
- ``every residual``: the pass with every residual captured, as a ratio to the plain one;
- ``recurrence alone``: one layer's recurrence in chunks against its steps.
"""

from __future__ import annotations

import argparse
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

import torch
from torch import Tensor

import mi_core as mi

# the tests write random files in the layout of the package's authors
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

SIZES = {"layers": 12, "heads": 12, "d_head": 64}


def main() -> None:
    """Each version in a process of its own: the package reads from the environment which one it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", nargs="+", default=["rwkv6", "rwkv7"], choices=["rwkv5", "rwkv6", "rwkv7"])
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--here", action="store_true", help="in this process; set for the inner ones")
    chosen = parser.parse_args()
    if chosen.here:
        torch.set_num_threads(chosen.threads)
        print(json.dumps(measured(chosen.versions[0], chosen.tokens, chosen.rounds)))
        return
    rows = []
    for version in chosen.versions:
        switches = {"RWKV_V7_ON": "1" if version == "rwkv7" else "0", "RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "0"}
        options = [f"--{name}={getattr(chosen, name)}" for name in ("tokens", "rounds", "threads")]
        command = [sys.executable, __file__, "--here", "--versions", version, *options]
        # its own output goes to stderr, the package prints too
        done = subprocess.run(command, env=os.environ | switches, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        rows += [{"version": version, **row} for row in found]
        for row in found:
            print(
                f"{version}  {row['name']:20} {row['ratio']:7.2f} ({row['low']:.2f} to {row['high']:.2f})", flush=True
            )
    if chosen.json:
        about = {"torch": torch.__version__, "threads": chosen.threads, "tokens": chosen.tokens}
        chosen.json.write_text(json.dumps({**about, "rows": rows}, indent=1), encoding="utf-8")


def measured(version: str, tokens: int, rounds: int) -> list[dict[str, Any]]:
    """All rows of a version: how many times as long as the pass in chunks each takes."""
    from original_checkpoints import random_original  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pth"
        torch.save(random_original(version, **SIZES), path)
        model = mi.load(str(path), allow_pickle=True, device="cpu")
        package = installed(path)
    ids = torch.randint(model.shape.d_vocab, (1, tokens), generator=torch.Generator().manual_seed(0))
    residuals = mi.capture(["blocks.*.hook_resid_pre", "blocks.*.hook_resid_mid", "blocks.*.hook_resid_post"])

    def chunks() -> Tensor:
        return model.run(ids).logits[0]

    def steps() -> Tensor:
        run = model.run(ids[:, :1], resumable=True)
        found = [run.logits[0]]
        for place in range(1, tokens):
            run = model.run(ids[:, place : place + 1], memory=run.memory(), resumable=True)
            found.append(run.logits[0])
        return torch.cat(found)

    others: dict[str, Callable[[], Tensor]] = {"own steps": steps}
    if package is not None:
        others["package, one call"] = lambda: package.forward(ids[0].tolist(), None, full_output=True)[0]
        others["package, steps"] = lambda: package_steps(package, ids[0].tolist())
    others["every residual"] = lambda: model.run(ids, residuals).logits[0]
    found = [compared(name, other, chunks, rounds) for name, other in others.items()]
    return [*found, compared("recurrence alone", *recurrences(model, ids), rounds)]


def installed(path: Path) -> Any:
    """The package's model, or None where it is not installed."""
    try:
        from rwkv.model import RWKV  # type: ignore[import-not-found]
    except ImportError:
        print("the package rwkv is not installed: pip install --no-deps rwkv", file=sys.stderr)
        return None
    return RWKV(model=str(path.with_suffix("")), strategy="cpu fp32")


def package_steps(package: Any, ids: list[int]) -> Tensor:
    """One token at a time."""
    found, state = [], None
    for token in ids:
        logits, state = package.forward([token], state)
        found.append(logits)
    return torch.stack(found)


def recurrences(model: mi.Model, ids: Tensor) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """One layer's recurrence: its steps, and its chunks, on the inputs that it has in this run."""
    from mi_recurrent.recurring import stepwise

    mixer: Any = model.backend.blocks[1].mixer  # type: ignore[attr-defined]
    kernel, seen = mixer.kernel, []
    chunked = kernel.chunked

    def spying(inputs: Any, state: Tensor) -> Any:
        seen.append((inputs, state))
        return chunked(inputs, state)

    kernel.chunked = spying
    try:
        model.run(ids)
    finally:
        del kernel.chunked
    inputs, state = seen[1]
    with torch.no_grad():
        return (lambda: stepwise(kernel, inputs, state)[0]), (lambda: chunked(inputs, state)[0])


def compared(name: str, other: Callable[[], Tensor], one: Callable[[], Tensor], rounds: int) -> dict[str, Any]:
    """How many times as long ``other`` takes as ``one``; refuses results that differ."""
    one(), other()
    ratios, seconds = [], []
    for turn in range(rounds):
        order = (one, other) if turn % 2 else (other, one)
        took, values = {}, {}
        for function in order:
            begun = time.perf_counter()
            with torch.no_grad():
                values[function] = function()
            took[function] = time.perf_counter() - begun
        ratios.append(took[other] / took[one])
        seconds.append(took[one])
        apart = float((values[one] - values[other]).abs().max() / values[one].abs().max())
        if apart > 1e-3:  # twelve random layers make a hundred times as much of rounding
            raise SystemExit(f"{name}: the results are {apart:.1e} of the largest apart")
    row = {"name": name, "ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
    return {**row, "seconds": statistics.median(seconds)}


if __name__ == "__main__":
    main()
