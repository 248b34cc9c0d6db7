"""Gemma Scope (Gemma 2): ``layer_N/width_16k/average_l0_X/params.npz``; the folder's name says what it reads.

JumpReLU, no centring, decoder rows of length one. Its transcoders read the norm's output before its weight
(``ln2.hook_normalized``) and write what is added to the stream.
Source: Lieberum et al. 2024, "Gemma Scope"; SAELens 6.54, ``gemma_2_sae_huggingface_loader``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from torch import Tensor

from mi_core.errors import BadConfig
from mi_core.files import Files
from mi_core.formats import Asked
from mi_core.hookspecs import hookimpl
from mi_dictionaries.about import About
from mi_dictionaries.activations import JumpReLU
from mi_dictionaries.checking import UNIT_NORM
from mi_dictionaries.sites import layer_of
from mi_dictionaries.sparse import SparseDictionary
from mi_dictionaries.stored import Stored

__all__ = ["mi_format", "read_arrays"]

KEYS: Final = {"w_enc", "w_dec", "b_enc", "b_dec", "threshold"}
REPOSITORY: Final = re.compile(r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att|transcoders)")


@dataclass(frozen=True)
class Kind:
    """What one kind of repository reads and writes."""

    reads: str
    writes: str = ""


KINDS: Final[Mapping[str, Kind]] = {
    "res": Kind("hook_resid_post"),
    "mlp": Kind("hook_mlp_out"),  # behind the norm that follows the MLP in Gemma 2
    "att": Kind("attn.hook_z"),
    "transcoders": Kind("ln2.hook_normalized", "hook_mlp_out"),
}


@hookimpl
def mi_format(files: Files, asked: Asked) -> Any | None:
    """One ``params.npz``."""
    name = asked.file or "params.npz"
    if not name.endswith(".npz") or not files.has(name):
        return None
    stored = Stored.npz(files, name)
    if {key.lower() for key in stored.tensors} != KEYS:
        return None
    kind, layer, model = described(files)
    at = "" if layer is None else f"blocks.{layer}."
    found = read_arrays(stored, at + kind.reads, at + (kind.writes or kind.reads), model)
    return rescaled_embedding(found) if layer is None else found


def read_arrays(stored: Stored, reads: str, writes: str, model: str | None) -> SparseDictionary:
    """The five arrays, between two points."""
    out, heads = "d_in" if reads == writes else "d_out", reads.endswith("attn.hook_z")
    dims = {"w_enc": "d_in d_sae", "w_dec": f"d_sae {out}", "b_enc": "d_sae", "b_dec": out, "threshold": "d_sae"}
    spelled = {key.lower(): key for key in stored.tensors}
    weights = {key: stored.take(spelled.get(key, key), dims[key]) for key in dims}
    stored.finish()
    said = ["b_dec is not subtracted before encoding", "JumpReLU with a threshold for each feature, strictly above it"]
    if heads:
        said.append("the heads of hook_z are put side by side before encoding, and taken apart again")
    if reads.endswith("ln2.hook_normalized"):
        said.append("reads the norm's output before its weight, which no module of transformers gives")
    return SparseDictionary(
        reads=(reads,),
        writes=(writes,),
        heads=heads,
        W_enc=weights["w_enc"],
        b_enc=weights["b_enc"],
        W_dec=weights["w_dec"],
        b_dec=weights["b_dec"],
        activation=JumpReLU(weights["threshold"]),
        about=About(
            format="gemma_scope", model=model, conventions=tuple(said), details={UNIT_NORM: "Gemma Scope trains them"}
        ),
    )


def rescaled_embedding(found: SparseDictionary) -> SparseDictionary:
    """For what the model's stream has: it was trained on embeddings before Gemma multiplies them by sqrt(d).

    Source: SAELens 6.54: encoder and decoder are scaled, the biases are not.
    """
    scale = found.d_in**0.5
    said = f"trained on embeddings before Gemma's factor sqrt(d): encoder / {scale:.4g}, decoder * {scale:.4g}"
    about = replace(found.about, conventions=(*found.about.conventions, said), details={})
    return replace(found, W_enc=found.W_enc / scale, W_dec=cast(Tensor, found.W_dec) * scale, about=about)


def described(files: Files) -> tuple[Kind, int | None, str | None]:
    """Kind, layer (None: the embedding) and model, from the names of the folders."""
    parts = files.place.parts
    found = next((match for part in reversed(parts) if (match := REPOSITORY.search(part))), None)
    model = f"google/gemma-2-{found[1]}{'-it' if found[2] == 'it' else ''}" if found else None
    if "embedding" in parts:
        return Kind("hook_embed"), None, model
    layer = next((number for part in reversed(parts) if (number := layer_of(part)) is not None), None)
    if layer is None:
        raise BadConfig(
            f"{files.where}: the archive does not say which layer it reads, and no folder above it is called "
            "'layer_N' or 'embedding'. Keep the folders of the repository.",
            where=files.where,
        )
    if found is None:
        raise BadConfig(
            f"{files.where}: the archive does not say what it reads, and no folder above it is called "
            "'gemma-scope-...-{res,mlp,att,transcoders}'. Keep the folders of the repository.",
            where=files.where,
        )
    return KINDS[found[3]], layer, model
