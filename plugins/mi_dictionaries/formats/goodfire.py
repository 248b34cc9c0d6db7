"""Goodfire's autoencoders of Llama 3: one ``.pt`` or ``.pth`` file with ``encoder_linear`` and ``decoder_linear``.

Source: SAELens 6.54, ``get_goodfire_huggingface_loader``; the layer is in the file's name.
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
    "goodfire",
    re.compile(r"(?P<model>Llama-3\.[13]-\d+B-Instruct)-SAE-l(?P<layer>\d+)\.pth?"),
    owner="meta-llama",
    encoder="encoder_linear",
    decoder="decoder_linear",
)


@hookimpl
def mi_format(files: Files, asked: Asked) -> Any | None:
    """One file."""
    return PAIR.read(files, asked)
