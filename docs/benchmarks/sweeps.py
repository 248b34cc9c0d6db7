"""What does a sweep save? ``python docs/benchmarks/sweeps.py [--shape small|1b|8b] [--device cuda] [--json FILE]``.

Random weights; both sides of a ratio run in turn, in changing order. The naive side is a loop of full forward passes of
transformers (SDPA, no cache, last logits only), each with one hook that writes the same values.

- ``residual grid``: layer x position patching of ``hook_resid_pre``, against the loop.
- ``operations``: floating-point operations of the grid against the loop's, by torch's counter.
- ``head grid``: layer x head ablation of ``hook_z``, against the loop.
- ``residual grid ... against``: the same grid in TransformerLens or nnsight, with ``--beside PYTHON``: interpreters of
  environments that have them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mi_core as mi

BASE = {"model_type": "llama", "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "hidden_act": "silu"}
SHAPES: dict[str, dict[str, int]] = {
    "small": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "vocab_size": 8192,
    },
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
}
METRIC = mi.logit_diff(3, 4)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beside", nargs="*", default=[], metavar="PYTHON")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(2)
    device, dtype = torch.device(chosen.device), getattr(torch, chosen.dtype)
    ours, theirs = models({**BASE, **SHAPES[chosen.shape]}, device, dtype)
    rows = []
    for tokens in chosen.tokens:
        generator = torch.Generator().manual_seed(0)
        ids, source = torch.randint(0, ours.shape.d_vocab, (2, 1, tokens), generator=generator)
        run = ours.run(source, mi.capture("blocks.*.hook_resid_pre"), logits="last")
        grid = mi.patch_grid("blocks.*.hook_resid_pre", source=run)
        values = run.stack("hook_resid_pre")

        def swept(ids: Tensor = ids, grid: mi.Grid = grid) -> Tensor:
            return ours.sweep(ids, grid, METRIC, progress=False).values[..., 0]

        def looped(ids: Tensor = ids, values: Tensor = values) -> Tensor:
            return patched(theirs, ids.to(device), values)

        name = f"residual grid {ours.shape.n_layers} x {tokens}"
        rows.append(compared(name, swept, looped, chosen.rounds, device))
        for python in chosen.beside:
            asked = {"config": {**BASE, **SHAPES[chosen.shape]}, "threads": 2}
            asked |= {"tokens": ids.tolist(), "source": source.tolist()}
            rows.append(beside(name, swept, python, asked, chosen.rounds))
        rows.append(operations(name, swept, theirs, ids.to(device), ours.shape.n_layers * tokens))

        def heads(ids: Tensor = ids) -> Tensor:
            return ours.sweep(ids, mi.ablation_grid("blocks.*.attn.hook_z"), METRIC, progress=False).values[..., 0]

        def heads_looped(ids: Tensor = ids) -> Tensor:
            return ablated(theirs, ids.to(device))

        if tokens <= 16:
            rows.append(compared(f"head grid, {tokens} tokens", heads, heads_looped, chosen.rounds, device))
    if chosen.json:
        about = {"torch": torch.__version__, "device": str(device), "dtype": chosen.dtype, "shape": chosen.shape}
        if device.type == "cuda":
            about["card"] = torch.cuda.get_device_name()
        chosen.json.write_text(json.dumps({**about, "rows": rows}, indent=1), encoding="utf-8")


def models(config: dict[str, Any], device: torch.device, dtype: torch.dtype) -> tuple[mi.Model, Any]:
    """The same random weights in both libraries, shared in memory."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device(device):
        torch.manual_seed(0)
        theirs = LlamaForCausalLM._from_config(LlamaConfig(**config), attn_implementation="sdpa", dtype=dtype).eval()
    from mi_core.config import Config
    from mi_core.families import blueprint_of, empty_backend, family_of  # loading without a file
    from mi_core.fill import fill
    from mi_core.tensors import TensorIndex

    known = Config(config, where="config")
    family = family_of(known)
    tensors = {name: tensor.detach() for name, tensor in theirs.state_dict().items()}
    index = TensorIndex.of(tensors)
    blueprint = blueprint_of(family, known, index)
    backend, module = empty_backend(family, blueprint)
    fill(module, blueprint, index, family=family.name, dtype=dtype, device=device)
    return mi.Model(backend, name="llama", config=config), theirs


def patched(theirs: Any, ids: Tensor, values: Tensor) -> Tensor:
    """The loop: one full forward pass for each layer and position."""
    layers, tokens = len(theirs.model.layers), ids.shape[1]
    result = torch.empty(layers, tokens)
    with torch.no_grad():
        for layer in range(layers):
            for pos in range(tokens):

                def write(_module: Any, args: Any, layer: int = layer, pos: int = pos) -> Any:
                    hidden = args[0].clone()
                    hidden[:, pos] = values[layer, :, pos]
                    return (hidden, *args[1:])

                handle = theirs.model.layers[layer].register_forward_pre_hook(write)
                logits = theirs(ids, use_cache=False, logits_to_keep=1).logits[0, -1]
                handle.remove()
                result[layer, pos] = logits[3].float() - logits[4].float()
    return result


def ablated(theirs: Any, ids: Tensor) -> Tensor:
    """The loop: one full forward pass for each layer and head."""
    layers, heads = len(theirs.model.layers), theirs.config.num_attention_heads
    d_head = theirs.config.head_dim
    result = torch.empty(layers, heads)
    with torch.no_grad():
        for layer in range(layers):
            for head in range(heads):

                def write(_module: Any, args: Any, head: int = head) -> Any:
                    z = args[0].clone()
                    z[..., head * d_head : (head + 1) * d_head] = 0
                    return (z, *args[1:])

                handle = theirs.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(write)
                logits = theirs(ids, use_cache=False, logits_to_keep=1).logits[0, -1]
                handle.remove()
                result[layer, head] = logits[3].float() - logits[4].float()
    return result


def timed(function: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    """Seconds of one call, and what it returned."""
    began = time.perf_counter()
    value = function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, value


def compared(
    name: str, one: Callable[[], Tensor], other: Callable[[], Tensor], rounds: int, device: torch.device
) -> dict[str, Any]:
    """How many times faster ``one`` is, and how far the results are apart."""
    one()
    ratios, seconds, difference = [], [], 0.0
    for turn in range(rounds):
        if turn % 2:
            (slow, there), (fast, here) = timed(other, device), timed(one, device)
        else:
            (fast, here), (slow, there) = timed(one, device), timed(other, device)
        ratios.append(slow / fast)
        seconds.append(fast)
        difference = max(difference, float((here - there).abs().max()))
    middle = statistics.median(ratios)
    print(
        f"{name:32} {middle:6.2f} times faster ({min(ratios):.2f} to {max(ratios):.2f}), "
        f"{statistics.median(seconds):.3f} s, largest difference {difference:.1e}",
        flush=True,
    )
    return {"name": name, "times_faster": middle, "range": [min(ratios), max(ratios)], "seconds": seconds}


def beside(name: str, swept: Callable[[], Tensor], python: str, asked: dict[str, Any], rounds: int) -> dict[str, Any]:
    """The grid of another library, run by its own interpreter in turn with ours."""
    script = str(Path(__file__).with_name("elsewhere.py"))
    with subprocess.Popen([python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        print(json.dumps(asked), file=other.stdin, flush=True)
        library = json.loads(other.stdout.readline())
        ratios = []
        for _ in range(rounds):
            print("again", file=other.stdin, flush=True)
            theirs = json.loads(other.stdout.readline())
            ratios.append(theirs / timed(swept, torch.device("cpu"))[0])
        other.stdin.close()
    middle = statistics.median(ratios)
    print(f"{name + ', ' + library:48} {middle:6.2f} times faster ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)
    return {"name": f"{name} against {library}", "times_faster": middle, "range": [min(ratios), max(ratios)]}


def operations(name: str, swept: Callable[[], Tensor], theirs: Any, ids: Tensor, cells: int) -> dict[str, Any]:
    """The grid's floating-point operations against the loop's."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as ours:
        swept()
    with torch.no_grad(), FlopCounterMode(display=False) as once:
        theirs(ids, use_cache=False, logits_to_keep=1)
    ratio = ours.get_total_flops() / (cells * once.get_total_flops())
    print(f"{name + ', operations':32} {ratio:6.3f} of the loop's", flush=True)
    return {"name": f"{name}, operations", "ratio": ratio}


if __name__ == "__main__":
    main()
