"""What looks odd in a dictionary's numbers: thresholds below zero, decoder rows that are not of the promised length."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from mi_dictionaries.activations import JumpReLU
from mi_dictionaries.rows import rows_of
from mi_dictionaries.sets import DictionarySet
from mi_dictionaries.sparse import SparseDictionary

__all__ = ["UNIT_NORM", "findings", "sampled_norms", "with_findings"]

UNIT_NORM: Final = "decoder norms"
"""The detail by which a format says that it promises rows of length one; its value is who promises."""
SAMPLE: Final = 256
"""Rows of a decoder that are measured when it is loaded."""
TOLERANCE: Final = 1e-2
"""By how much a length may differ from one: half-precision weights are rounded."""


def with_findings(found: Any, format_name: str) -> Any:
    """The dictionary with its format's name and what looked odd in its numbers added to what is known of it."""
    if isinstance(found, DictionarySet):
        each = tuple(with_findings(dictionary, format_name) for dictionary in found.dictionaries)
        return dataclasses.replace(found, dictionaries=each, about=dataclasses.replace(found.about, format=format_name))
    if not dataclasses.is_dataclass(found) or not hasattr(found, "about"):
        return found
    odd = findings(found) if isinstance(found, SparseDictionary) else ()
    about = dataclasses.replace(found.about, format=format_name, warnings=(*found.about.warnings, *odd))
    return dataclasses.replace(found, about=about)  # type: ignore[type-var]


def findings(dictionary: SparseDictionary) -> Sequence[str]:
    """Sentences on what contradicts the conventions of the format."""
    return [*odd_thresholds(dictionary), *odd_norms(dictionary)]


def odd_thresholds(dictionary: SparseDictionary) -> list[str]:
    """Thresholds below zero mean different things to different libraries; ones that are no numbers mean nothing."""
    activation = dictionary.activation
    if not isinstance(activation, JumpReLU):
        return []
    held = torch.as_tensor(activation.threshold)
    said = []
    if count := int((held < 0).sum()):
        here = "such features are max(z, 0)" if activation.relu else "such features may be below zero"
        said.append(f"{count} of {held.numel()} thresholds are negative, the lowest {float(held.min()):.4g}: {here}")
    if count := int((~held.isfinite()).sum()):
        said.append(f"{count} of {held.numel()} thresholds are no finite numbers: those features never fire")
    return said


def odd_norms(dictionary: SparseDictionary) -> list[str]:
    """Decoder rows that are not of length one where the format promises it."""
    promised = dictionary.about.details.get(UNIT_NORM)
    if promised is None:
        return []
    norms = sampled_norms(dictionary)
    low, high = float(norms.min()), float(norms.max())
    if low >= 1 - TOLERANCE and high <= 1 + TOLERANCE:
        return []
    return [
        f"decoder norms are not one, as {promised}: {low:.4g} to {high:.4g} over {len(norms)} rows. The stored numbers "
        "are used as they are"
    ]


def sampled_norms(dictionary: SparseDictionary, count: int = SAMPLE) -> Float[Tensor, "n"]:
    """The norms of some rows of the decoder, spread over all; of a decoder stored by columns, of the first ones.

    Spread columns would touch every page of the file.
    """
    weight, n = dictionary.W_dec, dictionary.d_sae
    by_rows = not isinstance(weight, Tensor) or weight.stride(-1) == 1
    index = torch.linspace(0, n - 1, min(count, n)).long() if by_rows else torch.arange(min(count, n))
    rows: Tensor = rows_of(weight, index).flatten(1).float()
    norms: Tensor = torch.linalg.vector_norm(rows, dim=-1)
    return norms
