"""What do dictionaries cost? ``python docs/benchmarks/dictionaries.py [--gigabytes 8] [--folder DIR] [--json FILE]``.

- ``encode``: a dictionary of ``--features`` features over ``--tokens`` tokens against the bare matrix product of the
  same sizes, in turn and in changing order; about one feature in a thousand is active.
- ``memory``: the growth of the resident peak while encoding sparsely, in a fresh process, of dense features' size.
- ``cross-layer``: a transcoder of 20 layers is written with ``safetensors`` in circuit-tracer's layout, opened in a
  fresh process, and one prompt is encoded and decoded. What is counted, of all that was written: the bytes of its files
  that became resident or were read, beyond its encoders.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import mi_core as mi
import mi_dictionaries as md

D_MODEL, D_CLT, LAYERS, PROMPT = 768, 1024, 20, 16
CONFIG = """model_kind: cross_layer_transcoder
model_name: none
feature_input_hook: hook_resid_mid
feature_output_hook: hook_mlp_out
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=65536)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gigabytes", type=float, default=8.0)
    parser.add_argument("--folder", type=Path, help="where to write; by default a temporary folder")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--part", choices=("encode", "memory", "cross-layer"), help="only this")
    parser.add_argument("--within", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.within:
        print(json.dumps(within(chosen)))
        return
    parts: dict[str, Callable[[argparse.Namespace], Any]] = {
        "encode": rates,
        "memory": peak,
        "cross-layer": cross_layer,
    }
    found = {name: part(chosen) for name, part in parts.items() if chosen.part in (None, name)}
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def dictionaries(n_features: int) -> dict[str, md.SparseDictionary]:
    """Random ones, about as sparse as trained ones."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(D_MODEL, n_features, generator=draw) / D_MODEL**0.5
    shared: dict[str, Any] = {"reads": ("blocks.0.hook_resid_post",), "W_enc": weight, "W_dec": weight.T}
    bias = torch.full((n_features,), -3.1)
    return {
        "ReLU": md.SparseDictionary(b_enc=bias, **shared),
        "JumpReLU": md.SparseDictionary(activation=md.JumpReLU(-bias), **shared),
        "TopK": md.SparseDictionary(activation=md.TopK(n_features // 1000), **shared),
    }


def inputs(n_tokens: int) -> torch.Tensor:
    """Activations."""
    return torch.randn(n_tokens, D_MODEL, generator=torch.Generator().manual_seed(1))


def rates(chosen: argparse.Namespace) -> dict[str, Any]:
    """Encoding against the product alone."""
    x = inputs(chosen.tokens)
    found: dict[str, Any] = {}
    print(f"{'encode':24s} {'processor time':>24s} {'wall time':>24s}   aim 1.1")
    for name, sae in dictionaries(chosen.features).items():
        for sparse in (True, False):
            pairs = []
            for number in range(chosen.rounds + 1):
                sides = (lambda s=sae: x @ s.W_enc, lambda s=sae, p=sparse: s.encode(x, sparse=p))
                order = (0, 1) if number % 2 else (1, 0)
                times = {side: timed(sides[side]) for side in order}
                if number:  # the first round warms up
                    pairs.append([times[1][i] / times[0][i] for i in (0, 1)])
            said = f"{name}, {'sparse' if sparse else 'dense'}"
            found[said] = {"processor": [pair[0] for pair in pairs], "wall": [pair[1] for pair in pairs]}
            print(f"{said:24s} {spread(found[said]['processor']):>24s} {spread(found[said]['wall']):>24s}")
    return found


def peak(chosen: argparse.Namespace) -> dict[str, Any]:
    """The resident peak of sparse encoding, of the size of what would be dense."""
    found = fresh("memory", chosen)
    print(f"memory: {found['peak']:.3f} of the dense features' size, at {found['l0']:.0f} active features; aim 0.25")
    return found


def cross_layer(chosen: argparse.Namespace) -> dict[str, Any]:
    """What of a cross-layer transcoder is touched."""
    with tempfile.TemporaryDirectory(dir=chosen.folder) as scratch:
        size = write(Path(scratch), chosen.gigabytes)
        found = fresh("cross-layer", chosen, scratch)
    found["share"] = (found["resident"] + found["read"] - found["encoders"]) / size
    print(
        f"cross-layer: {size / 1e9:.2f} GB, of which {found['encoders'] / 1e9:.2f} encoders; opened in "
        f"{found['open_s']:.2f} s, {PROMPT} tokens in {found['run_s']:.2f} s at {found['l0']:.1f} active features in "
        f"each layer; {100 * found['share']:.2f} % touched beyond the encoders, aim 2"
    )
    return found


def write(folder: Path, gigabytes: float) -> int:
    """Files in circuit-tracer's layout; how many bytes they have."""
    per_feature = 2 * D_CLT * (LAYERS + LAYERS * (LAYERS + 1) // 2)
    n_features = int(gigabytes * 1e9 / per_feature)
    draw = torch.Generator().manual_seed(0)
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    for layer in range(LAYERS):
        encoder = torch.randn(n_features, D_CLT, generator=draw).div_(D_CLT**0.5).bfloat16()
        encoders = {
            f"W_enc_{layer}": encoder,
            f"b_enc_{layer}": torch.full((n_features,), -3.3).bfloat16(),
            f"b_dec_{layer}": torch.zeros(D_CLT).bfloat16(),
        }
        save_file(encoders, folder / f"W_enc_{layer}.safetensors")
        decoder = torch.empty(n_features, LAYERS - layer, D_CLT, dtype=torch.bfloat16).normal_(0, 0.1, generator=draw)
        save_file({f"W_dec_{layer}": decoder}, folder / f"W_dec_{layer}.safetensors")
    return sum(file.stat().st_size for file in folder.iterdir())


def fresh(what: str, chosen: argparse.Namespace, folder: str = "") -> dict[str, Any]:
    """A measurement in a process of its own."""
    options = [f"--{name}={getattr(chosen, name)}" for name in ("features", "tokens", "threads")]
    where = ["--folder", folder] if folder else []
    command = [sys.executable, __file__, "--within", what, *options, *where]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def within(chosen: argparse.Namespace) -> dict[str, Any]:
    """What is measured in the fresh process."""
    report = mi.MemoryReport()
    torch.randn(64, 64) @ torch.randn(64, 64)
    if chosen.within == "memory":
        sae, x = dictionaries(chosen.features)["JumpReLU"], inputs(chosen.tokens)
        sae.encode(x[:8], sparse=True)
        with report.phase("encode"):
            features = sae.encode(x, sparse=True)
        held = report["encode"]
        dense = 4 * chosen.tokens * chosen.features
        return {"peak": (held.peak["host"] - held.before["host"]) / dense, "l0": float(features.l0().float().mean())}
    began, read = time.perf_counter(), bytes_read()
    with report.phase("all"):
        clt = md.load(chosen.folder)
        opened = time.perf_counter()
        draw = torch.Generator().manual_seed(1)
        x = torch.randn(LAYERS, PROMPT, D_CLT, generator=draw)
        features = clt.encode(x, sparse=True)
        clt.decode(features)
    files = report["all"].after["host, files"] - report["all"].before["host, files"]
    encoders = sum(each.W_enc.numel() * each.W_enc.element_size() for each in clt.values())
    l0 = statistics.mean(float(own.l0().float().mean()) for own in features)
    return {
        "resident": files,
        "read": bytes_read() - read,
        "encoders": encoders,
        "l0": l0,
        "open_s": opened - began,
        "run_s": time.perf_counter() - opened,
    }


def bytes_read() -> int:
    """What this process read of files that it did not map."""
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Processor and wall time of some work."""
    processor, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - processor, time.perf_counter() - wall


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
