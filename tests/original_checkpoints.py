"""RWKV checkpoints under their authors' names: those of tests/data renamed, and random ones of any size."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

DATA = Path(__file__).parent / "data"
VERSIONS = ("rwkv4", "rwkv5", "rwkv6", "rwkv7")

RENAMED = (
    (r"^rwkv\.embeddings\.", "emb."),
    (r"^rwkv\.", ""),
    (r"\.pre_ln\.", ".ln0."),
    (r"\.attention\.", ".att."),
    (r"\.feed_forward\.", ".ffn."),
    (r"time_mix_([kvrg])\w+$", r"time_mix_\1"),
)
RENAMED_7 = (
    (r"^model\.embeddings\.", "emb."),
    (r"^lm_head\.", "head."),
    (r"^model\.norm\.", "ln_out."),
    (r"^model\.layers\.", "blocks."),
    (r"\.pre_norm\.", ".ln0."),
    (r"\.attn_norm\.", ".ln1."),
    (r"\.ffn_norm\.", ".ln2."),
    (r"\.attn\.", ".att."),
    (r"\.g_norm\.", ".ln_x."),
    (r"\.r_proj\.", ".receptance."),
    (r"\.k_proj\.", ".key."),
    (r"\.v_proj\.", ".value."),
    (r"\.o_proj\.", ".output."),
    (r"\.([wavg])_lora\.lora\.0\.weight$", r".\g<1>1"),
    (r"\.([wavg])_lora\.lora\.2\.weight$", r".\g<1>2"),
    (r"\.([wav])_lora\.lora\.2\.bias$", r".\g<1>0"),
)
"""The names of Hugging Face repositories -> the authors'."""


def renamed(version: str) -> dict[str, Tensor]:
    """The checkpoint of tests/data as its authors would have written it."""
    rules = RENAMED_7 if version == "rwkv7" else RENAMED
    found = {}
    for name, tensor in load_file(DATA / f"{version}-seed0" / "model.safetensors").items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        low_rank = version == "rwkv7" and re.search(r"\.[wavg][12]$", name)
        vector = version == "rwkv7" and re.search(r"\.([wav]0|k_k|k_a|ffn\.x_k)$", name)
        found[name] = tensor.mT.contiguous() if low_rank else tensor.view(1, 1, -1) if vector else tensor.clone()
    return found


def random_original(
    version: str, *, seed: int = 0, layers: int = 2, heads: int = 2, d_head: int = 8
) -> dict[str, Tensor]:
    """Random numbers under the authors' names. Source: the package rwkv 0.8.32, model.py."""
    c, f, v = heads * d_head, 3 * heads * d_head, 31
    shapes: dict[str, tuple[int, ...]] = {"emb.weight": (v, c), "head.weight": (v, c), **norm("ln_out", c)}
    shapes |= norm("blocks.0.ln0", c)
    for layer in range(layers):
        block, one = f"blocks.{layer}", (1, 1, c)
        shapes |= norm(f"{block}.ln1", c) | norm(f"{block}.ln2", c)
        att = dict.fromkeys(("receptance.weight", "key.weight", "value.weight", "output.weight"), (c, c))
        ffn = {"key.weight": (f, c), "value.weight": (c, f)}
        if version != "rwkv4":
            att |= norm("ln_x", c)
        if version != "rwkv7":
            ffn |= {"receptance.weight": (c, c)}
        if version in ("rwkv4", "rwkv5"):
            att |= {f"time_mix_{x}": one for x in ("kvr" if version == "rwkv4" else "kvrg")}
            ffn |= {"time_mix_k": one, "time_mix_r": one}
        if version == "rwkv4":
            att |= {"time_decay": (c,), "time_first": (c,)}
        if version in ("rwkv5", "rwkv6"):
            att |= {"gate.weight": (c, c), "time_decay": (heads, d_head), "time_faaaa": (heads, d_head)}
        if version == "rwkv6":
            att |= {f"time_maa_{x}": one for x in "xwkvrg"} | {"time_maa_w1": (c, 5 * 4), "time_maa_w2": (5, 4, c)}
            att |= {"time_decay": one, "time_decay_w1": (c, 6), "time_decay_w2": (6, c)}
            ffn |= {"time_maa_k": one, "time_maa_r": one}
        if version == "rwkv7":
            att |= {f"x_{x}": one for x in "rwkvag"} | {"k_k": one, "k_a": one, "r_k": (heads, d_head)}
            for name, rank in (("w", 5), ("a", 4), ("v", 3), ("g", 6)):
                att |= {f"{name}1": (c, rank), f"{name}2": (rank, c)} | ({} if name == "g" else {f"{name}0": one})
            ffn |= {"x_k": one}
        shapes |= {f"{block}.att.{name}": shape for name, shape in att.items()}
        shapes |= {f"{block}.ffn.{name}": shape for name, shape in ffn.items()}
    draw = torch.Generator().manual_seed(seed)
    return {name: drawn(name, shape, draw) for name, shape in shapes.items()}


def norm(name: str, width: int) -> Mapping[str, tuple[int, ...]]:
    """Gain and bias."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def drawn(name: str, shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    """Mixes between zero and one, gains around one, matrices that keep the size of what they multiply."""
    noise = torch.randn(shape, generator=draw)
    leaf = name.rpartition(".")[2]
    if leaf.startswith(("time_mix", "x_", "time_maa_")) and shape[:2] == (1, 1):
        return torch.sigmoid(noise)
    if leaf == "weight" and len(shape) == 1:
        return 1 + 0.2 * noise
    if leaf in ("time_decay", "time_first", "time_faaaa", "r_k", "k_k", "k_a", "w0", "a0", "v0"):
        return 0.7 * noise
    return noise * (0.3 if len(shape) == 1 else shape[-1] ** -0.5)
