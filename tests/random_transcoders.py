"""Random transcoders of a model, of every kind that attribution graphs take."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from small_models import random

import mi_core as mi
import mi_dictionaries as md

KINDS = ("relu", "jumprelu", "topk", "skip", "cross-layer", "cross-layer-skip")


def activation(kind: str, seed: int, n: int) -> md.Activation:
    if kind == "jumprelu":
        return md.JumpReLU(0.2 * random(n, seed=seed), relu=False)
    return md.TopK(4) if kind == "topk" else md.ReLU()


def transcoders(
    model: mi.Model,
    kind: str = "relu",
    *,
    seed: int = 0,
    n: int = 9,
    reads: str = "mlp.hook_in",
    writes: str = "hook_mlp_out",
    missing: Collection[int] = (),
    biased: bool = True,
) -> md.DictionarySet:
    """One for each layer, or the layers of a cross-layer transcoder."""
    d, found = model.shape.d_model, []
    for layer in range(model.shape.n_layers):
        if layer in missing:
            continue
        first = 10 * (100 * seed + layer)
        later = model.shape.n_layers - layer
        rest: dict[str, Any] = {
            "W_enc": 0.5 * random(d, n, seed=first),
            "b_enc": 0.3 * random(n, seed=first + 1),
            "b_dec": random(d, seed=first + 2) if biased else torch.zeros(d),
            "W_skip": 0.4 * random(d, d, seed=first + 3) if kind.endswith("skip") else None,
            "activation": activation(kind, first + 4, n),
        }
        point = f"blocks.{layer}.{reads}"
        if kind.startswith("cross-layer"):
            places = tuple(f"blocks.{layer + more}.{writes}" for more in range(later))
            weight = random(n, later, d, seed=first + 5)
            found.append(md.cross_layer_transcoder_layer(reads=point, writes=places, W_dec=weight, **rest))
        else:
            weight, place = random(n, d, seed=first + 5), f"blocks.{layer}.{writes}"
            found.append(md.SparseDictionary(reads=(point,), writes=(place,), W_dec=weight, **rest))
    return md.DictionarySet(tuple(found))
