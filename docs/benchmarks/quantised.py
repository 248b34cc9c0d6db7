"""What do weights in eight bits cost and spare? ``python docs/benchmarks/quantised.py [--layers 12] [--rounds 3]``.

Writes a LLaMA of random bfloat16 weights into a temporary folder and loads it in fresh processes of one thread, plain
and quantised. Prints, of the medians:

- ``weights``: bytes that the parameters hold.
- ``peak``: growth of the resident peak while loading, as a part of that. A plain model is views of the file, whose
  pages come when they are used.
- ``load``, ``64 tokens``, ``1 token``: processor seconds of loading, of a run, and of one more token behind a memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile

import torch

import mi_core as mi

WAYS = (None, "int8", "float8")
CHILD = """
import json, sys, time
import torch
import mi_core as mi
torch.set_num_threads(1)
folder, scheme = sys.argv[1:]
mi.load("tiny-world", quantise=scheme or None).run([1])
memory = mi.MemoryReport()
began = time.process_time()
with memory.phase("load"):
    model = mi.load(folder, device="cpu", quantise=scheme or None)
loaded = time.process_time()
ids = torch.arange(64)[None]
model.run(ids, logits="last")

def spent(work):
    began = time.process_time()
    work()
    return time.process_time() - began

before = model.run(ids, logits=None, spec=mi.capture("blocks.*.hook_resid_post").at(pos=-1), resumable=True).memory()
print(json.dumps({
    "weights": sum(parameter.nbytes for parameter in model.module.parameters()),
    "peak": memory["load"].growth["host"],
    "load": loaded - began,
    "64 tokens": min(spent(lambda: model.run(ids, logits="last")) for _ in range(3)),
    "1 token": min(spent(lambda: model.run([[1]], memory=before)) for _ in range(3)),
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sizes = {"hidden_size": 1024, "intermediate_size": 2816, "vocab_size": 8000, "num_attention_heads": 16}
    config = {"model_type": "llama", **sizes, "num_key_value_heads": 4, "num_hidden_layers": options.layers}
    with tempfile.TemporaryDirectory() as folder:
        mi.save_model(mi.build(config, trainable=False, device="cpu", dtype="bfloat16"), folder)
        for scheme in WAYS:
            found = [measured(folder, scheme) for _ in range(options.rounds)]
            one = {key: statistics.median(each[key] for each in found) for key in found[0]}
            times = ", ".join(f"{key} {one[key]:.2f} s" for key in ("load", "64 tokens", "1 token"))
            print(
                f"{scheme or 'bfloat16':9} weights {one['weights'] / 1e6:.0f} MB, "
                f"peak {one['peak'] / one['weights']:.2f}, {times}",
                flush=True,
            )


def measured(folder: str, scheme: str | None) -> dict[str, float]:
    """One process."""
    command = [sys.executable, "-c", CHILD, folder, scheme or ""]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
