"""Dictionaries of models whose weights were processed first, on the model as it was published.

TransformerLens can centre what is written to the stream and fold value biases into the output's bias before anything
is trained on the model. Both shift activations by what is known in closed form, so an adapter in front of the
dictionary, undone behind it, is exact, and the model stays as it is.

Source: TransformerLens 3.9, ``center_writing_weights`` and ``fold_value_biases``, for models with LayerNorm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.errors import BadConfig
from mi_dictionaries.transforms import Centred, Shifted, Transform

__all__ = ["CENTRED", "FOLDED", "adapted", "processing_of", "transforms_for"]

CENTRED: Final = "center_writing_weights"
FOLDED: Final = "fold_value_biases"
WRITTEN: Final = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_mlp_out", "hook_attn_out", "hook_embed")
"""Sites of the stream and of what is written to it: centring takes their mean away."""


PUBLISHED_CENTRED: Final = (
    "jbloom/GPT2-Small-SAEs-Reformatted",
    "jbloom/GPT2-Small-Feature-Splitting-Experiment-Layer-8",
    "tommmcgrath/gpt2-small-mlp-out-saes",
)
"""Repositories whose files do not say that the model was processed; SAELens' list of releases does (version 6.54)."""


def processing_of(metadata: Mapping[str, Any], place: str = "") -> tuple[str, ...]:
    """How the model was processed, by what a SAELens config says of the model, or by where the files come from."""
    options = metadata.get("model_from_pretrained_kwargs") or {}
    if not options and any(repository in place for repository in PUBLISHED_CENTRED):
        return (CENTRED,)
    return tuple(name for name in (CENTRED, FOLDED) if options.get(name) is True)


def transforms_for(
    processing: Collection[str], reads: str, writes: str
) -> tuple[tuple[Transform, ...], tuple[str, ...]]:
    """The adapters that need nothing but the dictionary's points, and sentences on what was done or is missing."""
    said: list[str] = []
    found: list[Transform] = []
    site_in, site_out = reads.rpartition(".")[2], writes.rpartition(".")[2]
    if CENTRED in processing and site_in in WRITTEN and reads == writes:
        found.append(Centred())
        said.append(
            "trained on centred writing weights: the mean over the width is taken away before encoding and given back "
            "behind decoding, so that it fits the model as published"
        )
    elif CENTRED in processing and site_out in WRITTEN:
        said.append("trained on centred writing weights: what it writes has no mean over the width")
    if FOLDED in processing and site_in == "hook_z":
        said.append(
            "trained on folded value biases: pass it through mi_dictionaries.adapted(dictionary, model), which knows "
            "the biases, before it reads the model as published"
        )
    return tuple(found), tuple(said)


def adapted(dictionary: Any, model: Any, processing: Collection[str] = (CENTRED, FOLDED)) -> Any:
    """The dictionary with what it needs to read ``model`` as it is, where it was trained on the processed model.

    At the stream and at what is written to it, the mean over the width is taken away (and given back); at ``hook_z``
    the constant that folded value biases take from it.

    Raises:
        BadConfig: another kind of processing, or a dictionary that is adapted already.
    """
    if unknown := set(processing) - {CENTRED, FOLDED}:
        raise BadConfig(f"processing {sorted(unknown)!r} has no adapter; there are {CENTRED!r} and {FOLDED!r}.")
    if any(isinstance(transform, Centred | Shifted) for transform in dictionary.transforms):
        raise BadConfig(f"the dictionary at {dictionary.site_in!r} is adapted already: {dictionary.about.conventions}.")
    found, said = transforms_for(set(processing) - {FOLDED}, dictionary.site_in, dictionary.site_out)
    if FOLDED in processing and dictionary.site_in.endswith("attn.hook_z"):
        found = (*found, Shifted(folded_value_bias(model, dictionary.site_in)))
        said = (
            *said,
            "trained on folded value biases: the constant that they take from hook_z is subtracted and added",
        )
    about = dataclasses.replace(dictionary.about, conventions=(*dictionary.about.conventions, *said))
    return dataclasses.replace(dictionary, transforms=(*found, *dictionary.transforms), about=about)


def folded_value_bias(model: Any, point: str) -> Float[Tensor, "d"]:
    """What ``hook_z`` of a layer holds of value biases, heads side by side: attention's rows sum to one.

    The norm's bias goes through the values as well: ``b_V + ln1.b W_V``.
    """
    start = point.removesuffix("hook_z")
    norm = start.removesuffix("attn.") + "ln1.b"
    weights = model.weights
    bias: Tensor = weights[f"{start}b_V"] + torch.einsum("d,hde->he", weights[norm], weights[f"{start}W_V"])
    return bias.flatten()
