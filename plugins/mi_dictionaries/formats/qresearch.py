"""qresearch's autoencoder of DeepSeek-R1-Distill-Llama-8B: one ``.pt`` file with ``encoder`` and ``decoder``.

Source: SAELens 6.54, ``deepseek_r1_sae_huggingface_loader``; the layer is in the file's name.
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

FILE: Final = re.compile(r"(DeepSeek-R1-Distill-[\w.-]+?)-SAE-l(\d+)\.pt")


@hookimpl
def mi_format(files: Files, asked: Asked) -> Any | None:
    """One file."""
    name = the_file(files, asked, FILE)
    if name is None:
        return None
    stored = Stored.torch(files, name)
    if "encoder.weight" not in stored:
        return None
    model, layer = FILE.fullmatch(name).groups()  # type: ignore[union-attr]  # the_file matched it
    about = About(
        format="qresearch",
        model=f"deepseek-ai/{model}",
        conventions=("b_dec is not subtracted before encoding", "ReLU"),
    )
    return relu_pair(stored, "encoder", "decoder", f"blocks.{layer}.hook_resid_post", about)
