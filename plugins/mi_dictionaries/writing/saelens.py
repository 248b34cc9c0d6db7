"""SAELens' layout of version 6: ``cfg.json`` and ``sae_weights.safetensors``.

What SAELens has no field for is folded into the weights where that is exact up to rounding, and refused otherwise.
Source: SAELens 6.54, sae.py, ``save_model``.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from mi_core.errors import NotSerialisable
from mi_dictionaries.activations import AbsTopK, Gated, JumpReLU, ReLU, TanhReLU, TopK
from mi_dictionaries.adapters import CENTRED
from mi_dictionaries.matching_pursuit import MatchingPursuit
from mi_dictionaries.sparse import SparseDictionary
from mi_dictionaries.temporal import Temporal
from mi_dictionaries.transforms import Centred, ConstantNorm, LayerNorm, Scaled
from mi_dictionaries.writing.tensor_files import write_tensors

__all__ = ["save_saelens"]

NORMS: Final = {LayerNorm: "layer_norm", ConstantNorm: "constant_norm_rescale"}
DTYPES: Final = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}


def save_saelens(dictionary: Any, folder: str | os.PathLike[str]) -> Path:
    """Write a dictionary as SAELens 6 writes its own.

    Raises:
        NotSerialisable: SAELens has no architecture for it; the message says what stands in the way.
    """
    config, tensors = described(dictionary)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    write_tensors(place / "sae_weights.safetensors", tensors)
    (place / "cfg.json").write_text(json.dumps(config), encoding="utf-8")
    return place


def described(dictionary: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and tensors."""
    if not isinstance(dictionary, SparseDictionary | MatchingPursuit | Temporal):
        raise refused(
            dictionary, f"a {type(dictionary).__name__} has no architecture there; write its layers one by one"
        )
    if len(dictionary.reads) > 1 or len(dictionary.writes) > 1:
        raise refused(dictionary, "it reads or writes several points")
    scaled = None
    if not isinstance(dictionary, Temporal):
        dictionary = without_scale(dictionary)
    elif dictionary.transforms and isinstance(dictionary.transforms[-1], Scaled):
        scaled = dictionary.transforms[-1].factor
        dictionary = dataclasses.replace(dictionary, transforms=dictionary.transforms[:-1])
    transcodes = dictionary.reads != dictionary.writes
    extra, tensors = (
        pursued(dictionary)
        if isinstance(dictionary, MatchingPursuit)
        else predicted(dictionary, scaled)
        if isinstance(dictionary, Temporal)
        else encoded(dictionary, transcodes)
    )
    config = {
        "d_in": dictionary.d_in,
        "d_sae": dictionary.d_sae,
        "dtype": DTYPES[dictionary.W_dec.dtype],
        "device": "cpu",
        "apply_b_dec_to_input": dictionary.b_in is not None,
        "normalize_activations": norm(dictionary),
        "reshape_activations": "hook_z" if dictionary.heads else "none",
        "metadata": metadata(dictionary, transcodes),
        **extra,
    }
    return config, tensors


def metadata(dictionary: Any, transcodes: bool) -> dict[str, Any]:
    """What is known of the model and the point, with whatever a SAELens file said before."""
    details = dictionary.about.details
    known = {key: value for key, value in details.items() if key in METADATA}
    found = {
        **known,
        "model_name": dictionary.about.model,
        "hook_name": dictionary.site_in,
        "hook_head_index": details.get("hook_head_index"),
    }
    if transcodes:
        found["hook_name_out"] = dictionary.site_out
    if any(isinstance(transform, Centred) for transform in dictionary.transforms):
        found["model_from_pretrained_kwargs"] = {**(details.get("model_from_pretrained_kwargs") or {}), CENTRED: True}
    return found


METADATA: Final = """
    prepend_bos context_size dataset_path neuronpedia_id seqpos_slice model_from_pretrained_kwargs
    model_class_name exclude_special_tokens sae_lens_version sae_lens_training_version training_architecture
    training_architecture_details hf_hook_name hf_hook_name_out hook_head_index_out
""".split()  # noqa: SIM905  # a line for each otherwise


def norm(dictionary: Any) -> str:
    """The norm at run time."""
    kinds = [type(transform) for transform in dictionary.transforms if not isinstance(transform, Centred)]
    if not kinds:
        return "none"
    if len(kinds) > 1 or kinds[0] not in NORMS:
        raise refused(dictionary, f"it transforms activations by {[kind.__name__ for kind in kinds]}")
    return NORMS[kinds[0]]


def without_scale(dictionary: Any) -> Any:
    """A factor of the activations folded into the weights; features keep their values."""
    kept = tuple(transform for transform in dictionary.transforms if not isinstance(transform, Scaled))
    factors = [transform for transform in dictionary.transforms if isinstance(transform, Scaled)]
    if not factors:
        return dictionary
    if kept or isinstance(dictionary, MatchingPursuit):
        raise refused(dictionary, "it scales activations beside what else it does to them")
    scale, back = 1.0, 1.0
    for transform in factors:
        scale, back = scale * transform.factor, back * (transform.factor if transform.undo else 1.0)
    return dataclasses.replace(
        dictionary,
        transforms=(),
        W_enc=dictionary.W_enc * scale,
        W_dec=dictionary.W_dec / back,
        b_dec=None if dictionary.b_dec is None else dictionary.b_dec / back,
        b_in=None if dictionary.b_in is None else dictionary.b_in / scale,
    )


def encoded(dictionary: SparseDictionary, transcodes: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Everything with an encoder and a decoder."""
    activation = dictionary.activation
    weight, W_dec = dictionary.W_enc, dictionary.W_dec
    b_enc = dictionary.b_enc
    if not isinstance(W_dec, Tensor):
        raise refused(dictionary, "its decoder is stacked of several")
    rescales = isinstance(activation, TopK | AbsTopK) and by_norms(dictionary)
    if not rescales:
        weight, b_enc, W_dec = folded(dictionary, weight, b_enc, W_dec)
    dtype = W_dec.dtype
    b_dec = torch.zeros(dictionary.d_out, dtype=dtype) if dictionary.b_dec is None else dictionary.b_dec
    if dictionary.b_in is not None and (transcodes or not torch.equal(dictionary.b_in, b_dec)):
        raise refused(dictionary, "what it subtracts before encoding is not its decoder's bias")
    tensors = {"W_enc": weight, "W_dec": W_dec, "b_dec": b_dec}
    name, extra, own = architecture(dictionary, activation, transcodes)
    if not isinstance(activation, Gated):
        tensors["b_enc"] = torch.zeros(dictionary.d_sae, dtype=dtype) if b_enc is None else b_enc
    elif b_enc is not None:
        raise refused(dictionary, "it is gated and has an encoder bias beside the gate's")
    if isinstance(activation, TopK | AbsTopK):
        extra = {**extra, "rescale_acts_by_decoder_norm": rescales}
    if dictionary.W_skip is not None:
        tensors["W_skip"] = dictionary.W_skip
    return {**extra, "architecture": name}, {**tensors, **own}


def by_norms(dictionary: SparseDictionary) -> bool:
    """Whether features compete by what they add, which SAELens has a field for."""
    if dictionary.pre_scale is None or dictionary.feature_scale is None:
        return False
    norms = dictionary.decoder_norms()
    return torch.equal(dictionary.pre_scale, norms) and torch.equal(dictionary.feature_scale, 1 / norms)


def folded(
    dictionary: SparseDictionary, weight: Tensor, b_enc: Tensor | None, W_dec: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Scales of features in the weights."""
    if dictionary.pre_scale is not None:
        weight = weight * dictionary.pre_scale.to(weight.dtype)
        b_enc = None if b_enc is None else b_enc * dictionary.pre_scale.to(b_enc.dtype)
    if dictionary.feature_scale is not None:
        W_dec = W_dec * dictionary.feature_scale.to(W_dec.dtype)[:, None]
    return weight, b_enc, W_dec


def architecture(
    dictionary: SparseDictionary, activation: Any, transcodes: bool
) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """Name, further fields and further tensors."""
    skips = dictionary.W_skip is not None
    if skips and not transcodes:
        raise refused(dictionary, "it has a skip connection and writes where it reads")
    n, dtype = dictionary.d_sae, dictionary.W_dec.dtype
    kinds = {(False, False): "", (True, False): "transcoder", (True, True): "skip_transcoder"}
    suffix = kinds[transcodes, skips]
    out = {"d_out": dictionary.d_out} if transcodes else {}
    if isinstance(activation, ReLU) and not isinstance(activation, TanhReLU):
        return suffix or "standard", out, {}
    if isinstance(activation, JumpReLU):
        bound = torch.as_tensor(activation.threshold)
        if not activation.relu and bool((bound < 0).any()):
            raise refused(dictionary, "its JumpReLU lets features below zero through")
        bound = bound if bound.ndim else bound.to(dtype).expand(n)
        return f"jumprelu_{suffix}" if suffix else "jumprelu", out, {"threshold": bound}
    if not transcodes and isinstance(activation, AbsTopK):
        return "abstopk", {"k": activation.k}, {}
    if not transcodes and isinstance(activation, TopK) and activation.relu:
        return "topk", {"k": activation.k}, {}
    if not transcodes and isinstance(activation, Gated):
        return "gated", {}, {name: getattr(activation, name) for name in ("b_gate", "b_mag", "r_mag")}
    raise refused(dictionary, f"there is no {'transcoder' if transcodes else 'autoencoder'} with {activation!r:.60}")


def pursued(dictionary: MatchingPursuit) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Matching pursuit."""
    b_dec = dictionary.b_dec if dictionary.b_dec is not None else torch.zeros(dictionary.d_in)
    fields = ("residual_threshold", "max_iterations", "stop_on_duplicate_support")
    extra = {name: getattr(dictionary, name) for name in fields}
    return {**extra, "architecture": "matching_pursuit"}, {"W_dec": dictionary.W_dec, "b_dec": b_dec}


def predicted(dictionary: Temporal, scaled: float | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Temporal."""
    tensors = {"W_dec": dictionary.W_dec, "b_dec": torch.zeros(dictionary.d_in)}
    if dictionary.b_dec is not None:
        tensors["b_dec"] = dictionary.b_dec
    if dictionary.W_enc is not None:
        tensors["W_enc"] = dictionary.W_enc
    for number, layer in enumerate(dictionary.attention):
        for name in ("k_ctx", "q_target", "v_ctx", "c_proj"):
            weight, bias = getattr(layer, name)
            tensors[f"attn_layers.{number}.{name}.weight"] = weight
            tensors[f"attn_layers.{number}.{name}.bias"] = bias
    first = dictionary.attention[0] if dictionary.attention else None
    extra = {
        "n_heads": first.n_heads if first else 1,
        "n_attn_layers": len(dictionary.attention),
        "bottleneck_factor": dictionary.d_sae // len(first.k_ctx[1]) if first else 1,
        "sae_diff_type": "relu" if dictionary.k is None else "topk",
        "kval_topk": dictionary.k,
        "tied_weights": dictionary.W_enc is None,
        "activation_normalization_factor": 1.0 if scaled is None else scaled,
        "architecture": "temporal",
    }
    if scaled is not None:
        extra["normalize_activations"] = "constant_scalar_rescale"
    return extra, tensors


def refused(dictionary: Any, why: str) -> NotSerialisable:
    """The error for what SAELens cannot hold."""
    where = getattr(dictionary, "site_in", type(dictionary).__name__)
    return NotSerialisable(
        f"the dictionary at {where!r} cannot be written for SAELens: {why}. mi_dictionaries.save writes any.", why=why
    )
