"""The byte-level BPE of GPT-NeoX-20B, which RWKV-4's pile and raven models read: ``20B_tokenizer.json`` beside them.

Hugging Face repositories have the same as ``tokenizer.json``, which needs no plugin.
"""

from __future__ import annotations

from mi_core.files import Files
from mi_core.hookspecs import hookimpl
from mi_core.json_tokenizer import JsonTokenizer

__all__ = ["FILE", "mi_tokenizer"]

FILE = "20B_tokenizer.json"


@hookimpl
def mi_tokenizer(files: Files) -> JsonTokenizer | None:
    """The tokenizer of a folder that has the file."""
    return JsonTokenizer(files, FILE) if files.has(FILE) else None
