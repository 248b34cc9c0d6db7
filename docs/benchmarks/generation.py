"""What does generation cost? ``python docs/benchmarks/generation.py [--device cuda] [--processor] [--json FILE]``.

Random weights, greedy, 32 new tokens behind 16, with a cache on both sides, which run in turn, in changing order: the
median ratio of the pairs and its middle half.

- ``plain``: ``model.generate(ids)`` against ``generate`` of transformers.
- ``steered``: a vector added to one layer's stream at every position that predicts, against transformers without it.
- ``steered and captured``: the same, keeping the last layer's stream of every token.
- ``compiled``, with ``--mode default`` (or ``reduce-overhead``, which replays CUDA graphs): the same by
  ``model.compile(spec, mode=...).generate``.
- ``Python calls``: events "call" of ``sys.setprofile`` for each new token, of both sides.

``--processor`` counts seconds of the processor on one thread, not of the clock: for machines that do other work.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sweeps import BASE, SHAPES, models
from torch import Tensor

import mi_core as mi

NEW = 32
PROMPT = 16


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--mode", help="of torch.compile: measure compiled generations, too")
    parser.add_argument("--processor", action="store_true")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1 if chosen.processor else 2)
    clock = time.process_time if chosen.processor else time.perf_counter
    device = torch.device(chosen.device)
    ours, theirs = models({**BASE, **SHAPES[chosen.shape]}, device, getattr(torch, chosen.dtype))
    rows = []
    for batch in chosen.batch:
        ids = torch.randint(0, ours.shape.d_vocab, (batch, PROMPT), generator=torch.Generator().manual_seed(0))
        reference = reference_of(theirs, ids.to(device))
        for name, spec in specs(ours).items():
            ways = {name: own_of(partial(ours.generate, spec=spec), ids)}
            if chosen.mode:
                compiled = ours.compile(spec, strict=True, mode=chosen.mode)
                ways[f"{name}, compiled"] = own_of(compiled.generate, ids)
            for way, written in ways.items():
                if name == "plain" and not torch.equal(written(), reference()[:, PROMPT:].cpu()):
                    if chosen.dtype == "float32":
                        raise SystemExit("both sides must write the same tokens")
                    print("the sides write other tokens: logits that differ by rounding")
                rows.append(compared(f"{way}, batch {batch}", written, reference, chosen.pairs, device, clock))
        steered = own_of(partial(ours.generate, spec=specs(ours)["steered"]), ids)
        calls = {"ours": calls_of(steered), "transformers": calls_of(reference)}
        print(f"Python calls for each new token, batch {batch}: {calls}", flush=True)
        rows.append({"name": f"Python calls, batch {batch}", **calls})
    if chosen.json:
        about = {"torch": torch.__version__, "device": str(device), "dtype": chosen.dtype, "shape": chosen.shape}
        chosen.json.write_text(json.dumps({**about, "clock": clock.__name__, "rows": rows}, indent=1), encoding="utf-8")


def specs(model: mi.Model) -> dict[str, mi.HookSpec]:
    """What is done while writing."""
    vector = torch.randn(model.shape.d_model, generator=torch.Generator().manual_seed(1))
    middle, last = model.shape.n_layers // 2, model.shape.n_layers - 1
    steer = mi.intervene(f"blocks.{middle}.hook_resid_post", mi.Add(vector).at(pos=slice(-1, None)))
    kept = mi.capture(f"blocks.{last}.hook_resid_post")
    return {"plain": mi.HookSpec(), "steered": steer, "steered and captured": steer + kept}


def own_of(generate: Callable[..., mi.Generation], ids: Tensor) -> Callable[[], Tensor]:
    """A generation with this library; the new tokens."""

    def written() -> Tensor:
        return torch.tensor(generate(ids, max_new_tokens=NEW, stop_at_eos=False).new_tokens)

    return written


def reference_of(theirs: Any, ids: Tensor) -> Callable[[], Tensor]:
    """A generation with transformers; all tokens."""
    settings = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "use_cache": True, "pad_token_id": 0}
    mask = torch.ones_like(ids)

    def written() -> Tensor:
        made: Tensor = theirs.generate(ids, attention_mask=mask, **settings)
        return made

    return written


def compared(
    name: str,
    one: Callable[[], Tensor],
    other: Callable[[], Tensor],
    pairs: int,
    device: torch.device,
    clock: Callable[[], float],
) -> dict[str, Any]:
    """The time of ``one`` in times of ``other``."""

    def timed(function: Callable[[], Tensor]) -> float:
        began = clock()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - began

    one(), other()
    ratios, seconds = [], []
    for turn in range(pairs):
        first, second = (one, other) if turn % 2 else (other, one)
        times = {first: timed(first)}
        times[second] = timed(second)
        ratios.append(times[one] / times[other])
        seconds.append(times[one])
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"{name:32} {middle:.3f} ({low:.3f} to {high:.3f}), {statistics.median(seconds):.3f} s", flush=True)
    return {"name": name, "ratio": middle, "middle half": [low, high], "seconds": seconds}


def calls_of(function: Callable[[], Tensor]) -> float:
    """Python calls for each new token, prompt and setting up included."""
    count = 0

    def seen(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event == "call"

    function()
    sys.setprofile(seen)
    try:
        function()
    finally:
        sys.setprofile(None)
    return round(count / NEW, 1)


if __name__ == "__main__":
    main()
