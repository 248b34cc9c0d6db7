"""Random checkpoints in the formats of sparse dictionaries, and the formulas that they stand for, in float64.

Written from the formats' descriptions with numpy, apart from the library's own code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

Array = NDArray[np.float64]
D, F, OUT = 8, 24, 6


def numbers(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> Array:
    """Normal numbers that float32 holds exactly."""
    return (rng.normal(size=shape) * scale).astype(np.float32).astype(np.float64)


def parts(seed: int, d: int = D, f: int = F, out: int | None = None) -> dict[str, Array]:
    """Encoder, decoder and biases as SAELens stores them."""
    rng = np.random.default_rng(seed)
    return {
        "W_enc": numbers(rng, d, f, scale=0.6),
        "b_enc": numbers(rng, f, scale=0.3),
        "W_dec": numbers(rng, f, out or d, scale=0.4),
        "b_dec": numbers(rng, out or d, scale=0.3),
    }


def activations(seed: int, *shape: int) -> Array:
    return numbers(np.random.default_rng(seed + 1000), *(shape or (3, 5, D)))


def tensors(arrays: Mapping[str, Array], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {name: torch.tensor(np.ascontiguousarray(array)).to(dtype) for name, array in arrays.items()}


def write_safetensors(path: Path, arrays: Mapping[str, Array]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors(arrays), path)


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: array.astype(np.float32) for name, array in arrays.items()})


def write_torch(path: Path, arrays: Mapping[str, Array], dtype: torch.dtype = torch.float32) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {"k": torch.tensor(int(arrays["k"]))} if "k" in arrays else {}
    torch.save(tensors(arrays, dtype) | whole, path)


def linear(p: Mapping[str, Array]) -> dict[str, Array]:
    """Encoder and decoder as torch's Linear stores them."""
    return {
        "encoder.weight": p["W_enc"].T,
        "encoder.bias": p["b_enc"],
        "decoder.weight": p["W_dec"].T,
        "decoder.bias": p["b_dec"],
    }


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def relu(z: Array) -> Array:
    return np.where(z > 0, z, 0.0)


def jump(z: Array, threshold: Array | float, floor: bool = True) -> Array:
    kept = np.where(z > threshold, z, 0.0)
    return relu(kept) if floor else kept


def best(z: Array, k: int, floor: bool = True, by: Array | None = None) -> Array:
    """The k largest of each row, one row at a time."""
    out = np.zeros_like(z)
    judged = z if by is None else by
    for place in np.ndindex(*z.shape[:-1]):
        for chosen in sorted(range(z.shape[-1]), key=lambda each: -judged[place][each])[:k]:
            out[place][chosen] = max(z[place][chosen], 0.0) if floor else z[place][chosen]
    return out


def close(got: Tensor, wanted: Array, relative: float = 1e-5) -> bool:
    assert tuple(got.shape) == wanted.shape
    return float(np.abs(got.double().numpy() - wanted).max()) <= relative * max(float(np.abs(wanted).max()), 1e-30)


def check(dictionary: Any, x: Array, acts: Array, recon: Array, relative: float = 1e-5) -> None:
    """Features, dense and sparse, and what is made of activations."""
    given = torch.tensor(x).float()
    assert acts.any()
    assert close(dictionary.encode(given).dense(), acts, relative)
    assert close(dictionary.encode(given, sparse=True).dense(), acts, relative)
    assert close(dictionary.forward(given), recon, relative)
