"""How fast and how lean is loading? ``python docs/benchmarks/loading.py [--gigabytes 1.2] [--rounds 5]``.

Writes a sharded LLaMA of random float32 weights into a temporary folder and loads it in fresh processes, this library
and transformers in turn, with a warm page cache. Prints medians with their ranges:

- ``load``: the call alone, after the import.
- ``to logits``: from before the import of the library to the first logits, torch's own import taken off.
- ``peak / weights``: growth of the resident peak from before ``load`` to after the first forward pass; below one
  where rows of the embedding are never looked at, and so never read from disk.
- ``import``: the library's own import beside torch.

Rows marked ``processor`` are processor seconds of the process, which a busy machine changes less than the clock's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

OURS = """
import mi_core as mi
imported, worked = time.perf_counter(), time.process_time()
before = resident()
model = mi.load(folder, device="cpu")
loaded, filled = time.perf_counter(), time.process_time()
model.run(ids)
"""
THEIRS = """
from transformers import AutoModelForCausalLM
imported, worked = time.perf_counter(), time.process_time()
before = resident()
model = AutoModelForCausalLM.from_pretrained(folder)
loaded, filled = time.perf_counter(), time.process_time()
with torch.no_grad():
    model(ids)
"""
AROUND = """
import json, resource, sys, time
import torch
torch.set_num_threads(2)
folder = sys.argv[1]
ids = torch.arange(16)[None]

def resident():
    for line in open("/proc/self/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024

begin, working = time.perf_counter(), time.process_time()
{body}
end = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({{"import": imported - begin, "load": loaded - imported, "first forward": end - loaded,
                   "to logits": end - begin, "growth": peak - before,
                   "import, processor": worked - working, "load, processor": filled - worked}}))
"""


def write(folder: Path, gigabytes: float, sizes: tuple[int, int, int] = (2048, 5632, 32000)) -> int:
    """A sharded checkpoint of about that size (width, MLP, vocabulary given); returns the bytes of its weights."""
    width, inner, vocab = sizes
    layer = 4 * width * width + 3 * width * inner + 2 * width
    layers = max(1, round((gigabytes * 2**30 / 4 - 2 * vocab * width) / layer))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "vocab_size": vocab,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, width)}
    for i in range(layers):
        at = f"model.layers.{i}."
        shapes |= {f"{at}self_attn.{name}_proj.weight": (width, width) for name in "qkvo"}
        shapes |= {f"{at}mlp.{name}_proj.weight": (inner, width) for name in ("gate", "up")}
        shapes |= {f"{at}mlp.down_proj.weight": (width, inner)}
        shapes |= {f"{at}{name}.weight": (width,) for name in ("input_layernorm", "post_attention_layernorm")}
    shapes |= {"model.norm.weight": (width,), "lm_head.weight": (vocab, width)}
    names = list(shapes)
    count = 4
    where: dict[str, str] = {}
    for shard in range(count):
        file = f"model-{shard + 1:05}-of-{count:05}.safetensors"
        part = names[len(names) * shard // count : len(names) * (shard + 1) // count]
        save_file({name: torch.randn(shapes[name]) * 0.02 for name in part}, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return 4 * sum(torch.Size(shape).numel() for shape in shapes.values())


def measured(body: str, folder: Path) -> dict[str, float]:
    """One fresh process."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", AROUND.format(body=body), str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def spread(values: list[float], scale: float = 1.0) -> str:
    """``median (least to most)``."""
    return f"{statistics.median(values) * scale:.3f} ({min(values) * scale:.3f} to {max(values) * scale:.3f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=1.2)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        weights = write(folder, asked.gigabytes)
        for file in folder.iterdir():  # a warm page cache
            file.read_bytes()
        rounds = [(measured(OURS, folder), measured(THEIRS, folder)) for _ in range(asked.rounds)]
    print(f"{weights / 2**30:.2f} GiB of float32 weights in 4 shards, {asked.rounds} alternating rounds, seconds\n")
    print("| | mi_core | transformers |\n|---|---|---|")
    for row in ("import", "import, processor", "load", "load, processor", "first forward", "to logits"):
        print(f"| {row} | {spread([ours[row] for ours, _ in rounds])} | {spread([them[row] for _, them in rounds])} |")
    grown = [spread([pair[side]["growth"] for pair in rounds], 1 / weights) for side in (0, 1)]
    print(f"| peak / weights | {grown[0]} | {grown[1]} |")
    ratios = [ours["to logits"] / theirs["to logits"] for ours, theirs in rounds]
    print(f"\nto logits, mi_core / transformers within one round: {spread(ratios)}")


if __name__ == "__main__":
    main()
