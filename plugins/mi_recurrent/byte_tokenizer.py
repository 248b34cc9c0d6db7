"""The vocabulary of models that read bytes: id = byte.

A checkpoint says so in its tokenizer_config.json, ``{"tokenizer_class": "ByteTokenizer", "encoding": "utf-8"}``.
Nothing else does: that there are 256 ids says neither that they are bytes nor how characters become them.
"""

from __future__ import annotations

from mi_core.files import Files
from mi_core.hookspecs import hookimpl
from mi_recurrent.piece_tokenizer import PieceTokenizer

__all__ = ["byte_tokenizer", "mi_tokenizer"]


@hookimpl
def mi_tokenizer(files: Files) -> PieceTokenizer | None:
    """The tokenizer of a folder that asks for it."""
    name = "tokenizer_config.json"
    settings = files.read_json(name) if files.has(name) else {}
    if settings.get("tokenizer_class") != "ByteTokenizer":
        return None
    return byte_tokenizer(str(settings.get("encoding", "utf-8")))


def byte_tokenizer(encoding: str = "utf-8") -> PieceTokenizer:
    """Bytes as tokens, for models that read them in this encoding.

    >>> byte_tokenizer().encode("é").ids, byte_tokenizer("utf-16-le").encode("é").ids
    ((195, 169), (233, 0))
    """
    pieces = {byte: bytes([byte]) for byte in range(256)}
    return PieceTokenizer(lambda: pieces, where=f"the tokenizer of {encoding} bytes", encoding=encoding)
