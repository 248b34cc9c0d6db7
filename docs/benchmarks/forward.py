"""What does a forward pass cost? ``python docs/benchmarks/forward.py [--pairs 11] [--json FILE]``.

A random LLaMA of about 90 million float32 parameters (12 layers, width 768, 12 query and 4 key/value heads, vocabulary
8192) runs with this library and with transformers (SDPA, no cache), on two CPU threads. Both sides of a ratio are
timed in turn, in changing order; a row is the median ratio of the pairs and the range of its middle half.

- ``plain``: ``model.run(ids)`` against ``model(ids, use_cache=False)`` of transformers.
- the rest: a run with a spec against the plain run of this library.
- ``Python calls``: events "call" of ``sys.setprofile`` in the second of two identical forward passes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import mi_core as mi

CONFIG = {
    "model_type": "llama",
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "vocab_size": 8192,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}
SHAPES = ((1, 64), (8, 64))
KNOCKOUT = mi.intervene("blocks.*.attn.hook_attn_scores", mi.Knockout(query=-1, key=slice(0, 4)))
SPECS = {
    "every residual": (
        mi.capture(["blocks.*.hook_resid_pre", "blocks.*.hook_resid_mid", "blocks.*.hook_resid_post"]),
        1.03,
    ),
    'capture("*")': (mi.capture("*"), 1.15),
    "one layer's residual": (mi.capture("blocks.6.hook_resid_post"), 1.02),
    "one layer's pattern": (mi.capture("blocks.6.attn.hook_pattern"), 1.08),
    "edges cut in every layer": (KNOCKOUT, 1.1),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=11, help="timed pairs for each row, at least 9")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    chosen = parser.parse_args()
    torch.set_num_threads(2)
    ours, theirs = models()
    rows: list[dict[str, Any]] = []
    for shape in SHAPES:
        ids = torch.randint(0, CONFIG["vocab_size"], shape, generator=torch.Generator().manual_seed(0))

        def plain(ids: torch.Tensor = ids) -> Any:
            return ours.run(ids)

        def reference(ids: torch.Tensor = ids) -> Any:
            return theirs(ids, use_cache=False)

        rows.append(measured("plain, against transformers", shape, plain, reference, 1.02, chosen.pairs))
        for name, (spec, bar) in SPECS.items():

            def with_spec(ids: torch.Tensor = ids, spec: mi.HookSpec = spec) -> Any:
                return ours.run(ids, spec)

            rows.append(measured(f"{name}, against plain", shape, with_spec, plain, bar, chosen.pairs))
        if shape[0] == 1:
            calls = (python_calls(plain), python_calls(reference))
            print(f"{'Python calls':36} {shape[0]} x {shape[1]:3}   ours {calls[0]}, transformers {calls[1]}")
            rows.append({"name": "Python calls", "shape": shape, "ours": calls[0], "transformers": calls[1]})
    if chosen.json:
        chosen.json.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1), encoding="utf-8")


def models() -> tuple[mi.Model, Any]:
    """The same weights in both libraries."""
    from transformers import LlamaForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        mi.save_model(mi.build(CONFIG, trainable=False), folder)
        theirs = LlamaForCausalLM.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32).eval()
        ours = mi.load(folder, device="cpu")
        ours.run([1, 2, 3])  # read before the folder goes
    return ours, theirs


def measured(
    name: str, shape: tuple[int, int], one: Callable[[], Any], other: Callable[[], Any], bar: float, pairs: int
) -> dict[str, Any]:
    """The median ratio of alternating pairs."""
    with torch.no_grad():
        one(), other()
        ratios = []
        for pair in range(pairs):
            if pair % 2:
                b, a = timed(other), timed(one)
            else:
                a, b = timed(one), timed(other)
            ratios.append(a / b)
    low, middle, high = statistics.quantiles(ratios, n=4)
    verdict = "ok" if middle <= bar else "MISSED"
    print(f"{name:36} {shape[0]} x {shape[1]:3}   {middle:.3f}  ({low:.3f} to {high:.3f})  bar {bar}  {verdict}")
    return {"name": name, "shape": shape, "ratio": middle, "quartiles": [low, high], "bar": bar, "pairs": pairs}


def timed(function: Callable[[], Any]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def python_calls(function: Callable[[], Any]) -> int:
    """Python function calls in the second of two identical calls."""
    count = 0

    def counting(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event == "call"

    with torch.no_grad():
        function()
        sys.setprofile(counting)
        try:
            function()
        finally:
            sys.setprofile(None)
    return count


if __name__ == "__main__":
    main()
