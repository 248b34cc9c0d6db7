"""A family of a few tensors, and installed plugins out of thin air: what the tests of loading need."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from mi_core import plugins
from mi_core.blueprint import Blueprint, Weight, empty
from mi_core.hookspecs import hookimpl
from mi_core.protocols import ModelShape

CONFIG: dict[str, Any] = {"model_type": "toy", "width": 4, "num_layers": 3, "vocab_size": 7, "torch_dtype": "float32"}


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = empty(width, width)
        self.bias = empty(width)
        self.gain = empty(width)

    def forward(self, stream: Any, batch: Any, tap: Any, memory: Any) -> Any:
        return stream, memory


class Toy(nn.Module):
    def __init__(self, width: int, layers: int, vocab: int) -> None:
        super().__init__()
        self.embedding = empty(vocab, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(layers))
        self.head = empty(vocab, width)
        self.shape = ModelShape(layers, width, vocab, None)

    @property
    def blocks(self) -> Any:
        return tuple(self.layers)

    def sites(self) -> Any:
        return ()

    def embed(self, batch: Any, tap: Any) -> Any:
        raise NotImplementedError

    def unembed(self, resid: Any, tap: Any) -> Any:
        raise NotImplementedError

    def weight(self, name: str) -> Any:
        raise KeyError(name)


@hookimpl
def mi_family(config: Any, tensors: Any) -> Blueprint:
    width, layers, vocab = config.size("width"), config.size("num_layers"), config.size("vocab_size")
    weights = {"embedding": Weight.of("wte.weight")}
    for i in range(layers):
        weights |= {f"layers.{i}.{name}": Weight.of(f"h.{i}.{name}") for name in ("weight", "bias", "gain")}
    tied = config.flag("tie_word_embeddings", default=False)
    if not tied:
        weights["head"] = Weight.of("head.weight")
    return Blueprint(
        backend=lambda: Toy(width, layers, vocab),
        weights=weights,
        dropped={"*.rotary_emb.inv_freq": "computed anew"},
        inert={"harmless": "it is a note"},
        tie={"head": "embedding"} if tied else {},
    )


def tensors_of(config: Mapping[str, Any] = CONFIG, seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    width, vocab = config["width"], config["vocab_size"]
    shapes = {"wte.weight": (vocab, width)}
    for i in range(config["num_layers"]):
        shapes |= {f"h.{i}.weight": (width, width), f"h.{i}.bias": (width,), f"h.{i}.gain": (width,)}
    if not config.get("tie_word_embeddings"):
        shapes["head.weight"] = (vocab, width)
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def write_checkpoint(
    folder: Path,
    config: Mapping[str, Any] = CONFIG,
    tensors: Mapping[str, torch.Tensor] | None = None,
    shards: int = 1,
) -> Path:
    """A checkpoint folder, in one file or in shards with their index."""
    tensors = tensors_of(config) if tensors is None else tensors
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config)))
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    where = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(tensors)}
    for file in sorted(set(where.values())):
        save_file({name: tensors[name] for name in tensors if where[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


@contextlib.contextmanager
def installed(
    root: Path,
    distribution: str,
    entry_points: Mapping[str, Mapping[str, str]],
    sources: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """A distribution that pip could have installed: entry points by group, and the modules that they name."""
    info = root / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    sections = [
        f"[{group}]\n" + "".join(f"{name} = {module}\n" for name, module in names.items())
        for group, names in entry_points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(sections))
    for module, source in (sources or {}).items():
        (root / f"{module}.py").write_text(source)
    sys.path.insert(0, str(root))
    forget()
    try:
        yield
    finally:
        sys.path.remove(str(root))
        for module in sources or {}:
            sys.modules.pop(module, None)
        forget()


def forget() -> None:
    importlib.invalidate_caches()
    plugins.installed.cache_clear()
    plugins.imported.cache_clear()


@contextlib.contextmanager
def toy_installed(root: Path) -> Iterator[None]:
    with installed(root, "toy-models", {"mi_core.families": {"toy": "toy_family"}}):
        yield
