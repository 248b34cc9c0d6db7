"""qresearch's autoencoder of DeepSeek-R1-Distill-Llama-8B: one ``.pt`` file with ``encoder`` and ``decoder``.

Source: SAELens 6.54, ``deepseek_r1_sae_huggingface_loader``; the layer is in the file's name.
"""

from __future__ import annotations

import re
from typing import Any, Final

from mi_core.files import Files
from mi_core.formats import Asked
from mi_core.hookspecs import hookimpl
from mi_dictionaries.formats.linear_pairs import LinearPair

__all__ = ["mi_format"]

PAIR: Final = LinearPair(
    "qresearch",
    re.compile(r"(?P<model>DeepSeek-R1-Distill-[\w.-]+?)-SAE-l(?P<layer>\d+)\.pt"),
    owner="deepseek-ai",
    encoder="encoder",
    decoder="decoder",
)


@hookimpl
def mi_format(files: Files, asked: Asked) -> Any | None:
    """One file."""
    return PAIR.read(files, asked)
