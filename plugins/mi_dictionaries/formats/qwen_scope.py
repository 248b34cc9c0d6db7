"""Qwen Scope: ``layerN.sae.pt``; model and k are in the repository's name.

Top-k after ReLU, no centring, at the layer's output.
Source: SAELens 6.54, ``qwen_scope_sae_huggingface_loader``.
"""

from __future__ import annotations

import re
from typing import Any, Final

from mi_core.errors import BadConfig
from mi_core.files import Files
from mi_core.formats import Asked
from mi_core.hookspecs import hookimpl
from mi_dictionaries.about import About
from mi_dictionaries.activations import TopK
from mi_dictionaries.formats.linear_pairs import the_file
from mi_dictionaries.sparse import SparseDictionary
from mi_dictionaries.stored import Stored

__all__ = ["mi_format"]

FILE: Final = re.compile(r"layer(?P<layer>\d+)\.sae\.pt")
REPOSITORY: Final = re.compile(r"SAE-Res-(.+)-W(\d+)K-L0_(\d+)")


@hookimpl
def mi_format(files: Files, asked: Asked) -> Any | None:
    """One layer's file."""
    name = the_file(files, asked, FILE)
    if name is None:
        return None
    stored = Stored.torch(files, name)
    encoder, decoder = stored.take("W_enc", "d_sae d_in"), stored.take("W_dec", "d_in d_sae")
    b_enc, b_dec = stored.take("b_enc", "d_sae"), stored.take("b_dec", "d_in")
    stored.finish()
    d_sae = stored.sizes["d_sae"]
    named = next((found for part in reversed(files.place.parts) if (found := REPOSITORY.search(part))), None)
    k = asked.k or (int(named[3]) if named else None)
    if k is None or not 1 <= k <= d_sae:
        said = f"its repository's name says {named[3]}" if named else "no folder above it is called 'SAE-Res-...-L0_k'"
        raise BadConfig(
            f"{files.where}: {name!r} does not say how many features are active; {said}, and k={asked.k!r} was passed. "
            f"Pass k= (1 to {d_sae}).",
            k=k,
            d_sae=d_sae,
        )
    layer = FILE.fullmatch(name)
    point = f"blocks.{layer[1] if layer else ''}.hook_resid_post"
    odd = named and int(named[2]) * 1024 != d_sae
    return SparseDictionary(
        reads=(point,),
        W_enc=encoder.T,
        b_enc=b_enc,
        W_dec=decoder.T,
        b_dec=b_dec,
        activation=TopK(k),
        about=About(
            format="qwen_scope",
            model=f"Qwen/{named[1]}" if named else None,
            conventions=("b_dec is not subtracted before encoding", f"the {k} largest of each token, after ReLU"),
            warnings=(f"the repository's name says {named[2]}K features, the tensors have {d_sae}",)
            if named and odd
            else (),
        ),
    )
