"""What a dictionary is: its format, its sizes, its points and the conventions that reading it applies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mi_dictionaries.activations import JumpReLU
from mi_dictionaries.checking import sampled_norms
from mi_dictionaries.loading import load
from mi_dictionaries.sets import DictionarySet
from mi_dictionaries.sparse import SparseDictionary

__all__ = ["Inspected", "inspect"]

SHOWN = 8
"""Sizes of a set that are listed one by one."""


@dataclass(frozen=True)
class Inspected:
    """Lines of what was found, each with a label, and what contradicts the format's promises."""

    lines: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]


def inspect(ref: Any, *, statistics: bool = False, **options: Any) -> Inspected:
    """What is this dictionary, and by which conventions is it read? ``options`` are those of `load`.

    Nothing is computed with it: of safetensors the headers are read, thresholds, and a few rows of the decoder. With
    ``statistics`` every decoder row is.
    """
    found = load(ref, **options)
    first = found.dictionaries[0] if isinstance(found, DictionarySet) else found
    lines = [*lines_of(found, first)]
    if statistics:
        lines += [*statistics_of(found)]
    layers = found.dictionaries if isinstance(found, DictionarySet) else (found,)
    warnings = [
        f"{each.site_in}: {sentence}" if len(layers) > 1 else sentence
        for each in layers
        for sentence in each.about.warnings
    ]
    return Inspected(tuple(lines), tuple(warnings))


def lines_of(found: Any, first: Any) -> Iterator[tuple[str, str]]:
    """What the files say, and what reading them applies."""
    about = found.about
    yield "format", about.format
    yield "kind", kind_of(found, first)
    if about.model is not None:
        yield "model", str(about.model)
    yield "reads", listed(found.reads)
    yield "writes", listed(found.writes)
    yield "sizes", f"d_in {first.d_in}, d_sae {sizes(found)}, d_out {first.d_out}"
    yield "weights", weights(first)
    yield "activation", activation(first)
    said = [sentence for sentence in first.about.conventions if sentence != activation(first)]
    for number, sentence in enumerate(said):
        yield ("conventions" if number == 0 else ""), sentence


def kind_of(found: Any, first: Any) -> str:
    """What one would call it."""
    skips = " with a skip connection" if getattr(first, "W_skip", None) is not None else ""
    if isinstance(found, DictionarySet):
        pairs = "transcoders" if first.reads != first.writes else "autoencoders"
        what = "cross-layer transcoder" if found.cross_layer else f"set of {pairs}"
        return f"{what}{skips}, {len(found)} layers"
    if len(found.writes) > 1:
        return f"layer of a cross-layer transcoder{skips}" if len(found.reads) == 1 else "crosscoder"
    if found.reads != found.writes:
        return f"transcoder{skips}"
    return {"Temporal": "temporal autoencoder", "MatchingPursuit": "matching-pursuit autoencoder"}.get(
        type(found).__name__, "autoencoder"
    )


def listed(points: tuple[str, ...]) -> str:
    """Points, the middle of many left out."""
    return ", ".join(points) if len(points) <= 4 else f"{points[0]}, {points[1]}, ..., {points[-1]} ({len(points)})"


def sizes(found: Any) -> str:
    """How many features, of every layer where they differ."""
    if not isinstance(found, DictionarySet):
        return f"{found.d_sae:,}"
    each = [dictionary.d_sae for dictionary in found.dictionaries]
    if len(set(each)) == 1:
        return f"{each[0]:,} in each layer, {sum(each):,} in all"
    return f"{', '.join(f'{n:,}' for n in each[:SHOWN])}{', ...' if len(each) > SHOWN else ''}"


def weights(first: Any) -> str:
    """Shapes and types."""
    named = {name: getattr(first, name, None) for name in ("W_enc", "b_enc", "W_dec", "b_dec", "W_skip")}
    there = [f"{name} {list(held.shape)}" for name, held in named.items() if held is not None]
    return f"{', '.join(there)}, {str(first.W_dec.dtype).removeprefix('torch.')}"


def activation(first: Any) -> str:
    """What chooses features."""
    chosen = getattr(first, "activation", None)
    if chosen is None:
        return type(first).__name__
    if isinstance(chosen, JumpReLU):
        held = torch.as_tensor(chosen.threshold)
        span = f"{float(held.min()):.4g} to {float(held.max()):.4g}" if held.ndim else f"{float(held):.4g}"
        return f"JumpReLU, thresholds {span}{'' if chosen.relu else ', without ReLU'}"
    said = [f"k = {chosen.k}"] if hasattr(chosen, "k") else []
    if getattr(chosen, "relu", True) is False:
        said.append("without ReLU")
    return ", ".join([type(chosen).__name__, *said])


def statistics_of(found: Any) -> Iterator[tuple[str, str]]:
    """Norms of all decoder rows, and how decoder and encoder lie to each other."""
    layers: Mapping[str, Any] = (
        {each.site_in: each for each in found.dictionaries} if isinstance(found, DictionarySet) else {"": found}
    )
    for name, each in layers.items():
        if not isinstance(each, SparseDictionary):
            continue
        norms = sampled_norms(each, each.d_sae)
        low, middle, high = float(norms.min()), float(norms.median()), float(norms.max())
        text = f"decoder norms {low:.4g} to {high:.4g}, median {middle:.4g}"
        if isinstance(each.W_dec, torch.Tensor) and each.shape_in == each.shape_out:
            cosine = torch.cosine_similarity(each.W_enc.T.float(), each.W_dec.float(), dim=-1)
            text += f"; cosine of encoder and decoder {float(cosine.median()):.3f}"
        yield "statistics", f"{name + ': ' if name else ''}{text}"
