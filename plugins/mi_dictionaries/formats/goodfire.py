"""Goodfire's autoencoders of Llama 3: one ``.pt`` or ``.pth`` file with ``encoder_linear`` and ``decoder_linear``.

Source: SAELens 6.54, ``get_goodfire_huggingface_loader``; the layer is in the file's name.
"""

from __future__ import annotations

import re
from typing import Any, Final

from mi_core.files import Files
from mi_core.formats import Asked
from mi_core.hookspecs import hookimpl
from mi_dictionaries.about import About
from mi_dictionaries.formats.linear_pairs import relu_pair, the_file
from mi_dictionaries.stored import Stored

FILE: Final = re.compile(r"(Llama-3\.[13]-\d+B-Instruct)-SAE-l(\d+)\.pth?")


@hookimpl
def mi_format(files: Files, asked: Asked) -> Any | None:
    """One file."""
    name = the_file(files, asked, FILE)
    if name is None:
        return None
    stored = Stored.torch(files, name)
    if "encoder_linear.weight" not in stored:
        return None
    model, layer = FILE.fullmatch(name).groups()  # type: ignore[union-attr]  # the_file matched it
    about = About(
        format="goodfire",
        model=f"meta-llama/{model}",
        conventions=("b_dec is not subtracted before encoding", "ReLU"),
    )
    return relu_pair(stored, "encoder_linear", "decoder_linear", f"blocks.{layer}.hook_resid_post", about)
