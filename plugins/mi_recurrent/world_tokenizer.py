"""The tokenizer of RWKV's world models: 65529 byte strings, the longest first.

The vocabulary is the checkpoint's own (``rwkv_vocab_v20230424.txt``, or ``vocab.txt`` of Hugging Face repositories), or
that of an installed package ``rwkv``.

Source: the package rwkv 0.8.32, rwkv_tokenizer.py. Hugging Face's ``Rwkv5Tokenizer`` strips texts and splits them at
spaces first, which gives other ids than the models were trained on; it is not followed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mi_core.errors import TokenizerError
from mi_core.files import Files
from mi_core.hookspecs import hookimpl
from mi_recurrent.piece_tokenizer import PieceTokenizer

__all__ = ["VOCABULARY", "installed_vocabulary", "mi_tokenizer", "world_tokenizer"]

VOCABULARY = "rwkv_vocab_v20230424.txt"
"""A line for each token: its id, its text as Python writes it, its length in bytes."""
LITERALS = "vocab.txt"
"""A line for each token, counted from zero: its bytes as Python writes them."""
CLASSES = ("Rwkv5Tokenizer", "Rwkv6Tokenizer", "RWKVWorldTokenizer", "RWKVTokenizer", "RwkvTokenizer", "Rwkv7Tokenizer")
"""What tokenizer_config.json calls this tokenizer."""
END = (0, "<|endoftext|>")
"""Begins and ends texts; it stands in no vocabulary file."""


@hookimpl
def mi_tokenizer(files: Files) -> PieceTokenizer | None:
    """The tokenizer of a folder that has a vocabulary file, or that names one of the tokenizer's classes."""
    name = "tokenizer_config.json"
    settings = files.read_json(name) if files.has(name) else {}
    named = settings.get("tokenizer_class") in CLASSES
    if not (files.has(VOCABULARY) or named):
        return None

    def read() -> dict[int, bytes]:
        if files.has(VOCABULARY):
            return numbered(files, VOCABULARY)
        return counted(files, LITERALS) if files.has(LITERALS) else installed_vocabulary()

    def chat() -> Any:
        from mi_core.chat_template import ChatTemplate

        return ChatTemplate.of(files, settings, {"bos_token": END[1], "eos_token": END[1]})

    return PieceTokenizer(read, where=files.where, end=END, chat=chat)


def world_tokenizer() -> PieceTokenizer:
    """The tokenizer of an installed package ``rwkv``, for checkpoints that come without a vocabulary.

    ``mi.load(path, allow_pickle=True, tokenizer=world_tokenizer())``

    Raises:
        TokenizerError: at first use, the package is not installed.
    """
    return PieceTokenizer(installed_vocabulary, where="the world tokenizer", end=END)


def installed_vocabulary() -> dict[int, bytes]:
    """The vocabulary inside the package ``rwkv``, which is not imported.

    Raises:
        TokenizerError: it is not installed.
    """
    found = find_spec("rwkv")
    folders = [] if found is None else [Path(place) for place in found.submodule_search_locations or ()]
    folder = next((place for place in folders if (place / VOCABULARY).is_file()), None)
    if folder is None:
        raise TokenizerError(
            f"the world tokenizer needs its vocabulary: put {VOCABULARY!r} beside the weights, or install the package "
            "that has it: pip install --no-deps rwkv.",
            file=VOCABULARY,
        )
    return numbered(Files(folder), VOCABULARY)


def numbered(files: Files, name: str) -> dict[int, bytes]:
    """Lines ``ID TEXT LENGTH``."""
    pieces = {}
    for number, line in enumerate(lines_of(files, name), 1):
        first, _, rest = line.partition(" ")
        text, _, length = rest.rpartition(" ")
        piece = literal(text.strip())
        if piece is None or not first.isdigit() or length != str(len(piece)) or int(first) in pieces:
            raise wrong(files, name, number, line)
        pieces[int(first)] = piece
    return pieces


def counted(files: Files, name: str) -> dict[int, bytes]:
    """Lines ``TEXT``; the first, ``b'<s>'``, is the end of text."""
    pieces = {}
    for number, line in enumerate(lines_of(files, name)):
        piece = literal(line.strip())
        if piece is None:
            raise wrong(files, name, number + 1, line)
        pieces[number] = piece
    pieces.pop(END[0], None)
    return pieces


def lines_of(files: Files, name: str) -> Iterable[str]:
    """The lines of a text file, whichever system wrote it; a token may hold other signs that separate lines."""
    try:
        text = files.read_bytes(name).decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{files.where}: {name!r} is no UTF-8: {error}.", file=name) from error
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def literal(text: str) -> bytes | None:
    """A string or bytes as Python writes them; None for anything else."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    piece = value.encode("utf-8") if isinstance(value, str) else value
    return piece if isinstance(piece, bytes) and piece else None


def wrong(files: Files, name: str, number: int, line: str) -> TokenizerError:
    """The error of a line that is not what it should be."""
    return TokenizerError(
        f"{files.where}: line {number} of {name!r} is {line[:60]!r}, which describes no token. Fetch the file again.",
        file=name,
        line=number,
    )
