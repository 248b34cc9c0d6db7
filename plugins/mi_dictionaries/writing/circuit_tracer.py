"""circuit-tracer's layouts: ``config.yaml`` with a file per layer, or with two per layer of a cross-layer set.

Source: circuit-tracer 0.4.1, ``TranscoderSet``, ``CrossLayerTranscoder`` and their loaders.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mi_core.errors import NotSerialisable
from mi_dictionaries.activations import JumpReLU, ReLU, TanhReLU, TopK
from mi_dictionaries.rows import Stacked, whole
from mi_dictionaries.sets import DictionarySet
from mi_dictionaries.sparse import SparseDictionary
from mi_dictionaries.writing.tensor_files import write_tensors

__all__ = ["save_circuit_tracer"]


def save_circuit_tracer(
    found: DictionarySet, folder: str | os.PathLike[str], *, model: str | None = None, scan: str | None = None
) -> Path:
    """Write a set of transcoders, per layer or cross-layer, as circuit-tracer reads it.

    ``model`` is the name of the model on the Hub, where the set does not know it; ``scan`` names its dashboards.

    Raises:
        NotSerialisable: it has no layers from 0 on, or does something that circuit-tracer has no words for.
    """
    import yaml  # type: ignore[import-untyped]

    layers = [checked(found, layer) for layer in range(len(found))]
    n = len(layers)
    config: dict[str, Any] = {
        "model_kind": "cross_layer_transcoder" if found.cross_layer else "transcoder_set",
        "model_name": model or found.about.model,
        "feature_input_hook": suffix(found, [layer.reads[0] for layer in layers]),
        "feature_output_hook": suffix(found, [layer.writes[0] for layer in layers]),
        **({"scan": scan} if scan else {}),
    }
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    for number, layer in enumerate(layers):
        if found.cross_layer:
            write_cross_layer(place, number, n, layer)
        else:
            write_layer(place, number, layer)
    kinds = {type(layer.activation) for layer in layers}
    if kinds == {TopK}:
        chosen = {layer.activation.k for layer in layers if isinstance(layer.activation, TopK)}
        if len(chosen) > 1:
            raise refused(found, f"its layers keep different numbers of features: {sorted(chosen)}")
        config |= {"activation": "topk", "k": chosen.pop()}
    elif TopK in kinds:
        raise refused(found, "some of its layers choose the k largest and some do not")
    (place / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return place


def checked(found: DictionarySet, layer: int) -> SparseDictionary:
    """One layer, once circuit-tracer can say all of it."""
    held = found.get(layer)
    if not isinstance(held, SparseDictionary):
        raise refused(found, f"layer {layer} is {type(held).__name__}; layers 0 to {len(found) - 1} are needed")
    if held.transforms or held.b_in is not None or held.heads:
        raise refused(found, f"layer {layer} transforms or centres its input")
    if held.pre_scale is not None or held.feature_scale is not None:
        raise refused(found, f"layer {layer} scales its features")
    activation = held.activation
    if isinstance(activation, JumpReLU) and activation.relu and bool((torch.as_tensor(activation.threshold) < 0).any()):
        raise refused(found, f"layer {layer} has thresholds below zero, where circuit-tracer's JumpReLU has no ReLU")
    if isinstance(activation, TopK) and activation.relu:
        raise refused(found, f"layer {layer} keeps positive features only, where circuit-tracer's top-k has no ReLU")
    if not isinstance(activation, ReLU | JumpReLU | TopK) or isinstance(activation, TanhReLU):
        raise refused(found, f"layer {layer} has {activation!r:.60}")
    return held


def suffix(found: DictionarySet, points: list[str]) -> str:
    """What the points of all layers end in."""
    ends = {re.sub(rf"^blocks\.{layer}\.", "", point) for layer, point in enumerate(points)}
    if len(ends) != 1:
        raise refused(found, f"its layers are at places of different kinds: {sorted(ends)}")
    return ends.pop()


def shared(layer: SparseDictionary, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Encoder as stored there, and both biases."""
    dtype = layer.W_enc.dtype
    b_enc = torch.zeros(layer.d_sae, dtype=dtype) if layer.b_enc is None else layer.b_enc
    return layer.W_enc.T, b_enc, torch.zeros(layer.d_out, dtype=dtype) if bias is None else bias


def threshold(layer: SparseDictionary) -> Tensor | None:
    """One number for each feature."""
    if not isinstance(layer.activation, JumpReLU):
        return None
    held = torch.as_tensor(layer.activation.threshold)
    return held if held.ndim else held.to(layer.W_enc.dtype).expand(layer.d_sae)


def write_layer(place: Path, number: int, layer: SparseDictionary) -> None:
    """One file of a per-layer set."""
    encoder, b_enc, b_dec = shared(layer, layer.b_dec)
    tensors: dict[str, Tensor | None] = {
        "W_enc": encoder,
        "W_dec": layer.W_dec.parts[0] if isinstance(layer.W_dec, Stacked) else whole(layer.W_dec),
        "b_enc": b_enc,
        "b_dec": b_dec,
        "W_skip": layer.W_skip,
        "activation_function.threshold": threshold(layer),
    }
    write_tensors(place / f"layer_{number}.safetensors", present(tensors))


def write_cross_layer(place: Path, number: int, n: int, layer: SparseDictionary) -> None:
    """The two files of one layer of a cross-layer set."""
    last = len(layer.writes) == 1
    bias = layer.b_dec if last or layer.b_dec is None else layer.b_dec[0]
    encoder, b_enc, b_dec = shared(layer, bias)
    decoder = whole(layer.W_dec)
    decoder = decoder[:, None] if last else decoder
    if decoder.shape[1] != n - number:
        raise NotSerialisable(
            f"layer {number} of {n} writes to {decoder.shape[1]} layers, it must write to its own and all later ones."
        )
    if layer.b_dec is not None and not last and bool(layer.b_dec[1:].any()):
        raise NotSerialisable(f"layer {number} adds a bias at a later layer, which the layout has no place for.")
    tensors: dict[str, Tensor | None] = {
        f"W_enc_{number}": encoder,
        f"b_enc_{number}": b_enc,
        f"b_dec_{number}": b_dec,
        f"threshold_{number}": threshold(layer),
        f"W_skip_{number}": None if layer.W_skip is None else layer.W_skip.T,
    }
    write_tensors(place / f"W_enc_{number}.safetensors", present(tensors))
    write_tensors(place / f"W_dec_{number}.safetensors", {f"W_dec_{number}": decoder})


def present(tensors: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """Those that are there."""
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def refused(found: DictionarySet, why: str) -> NotSerialisable:
    """The error for what circuit-tracer cannot hold."""
    return NotSerialisable(
        f"the set that reads {list(found.reads)[:2]}... cannot be written for circuit-tracer: {why}. "
        "mi_dictionaries.save writes any.",
        why=why,
    )
